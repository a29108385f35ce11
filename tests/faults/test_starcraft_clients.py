"""SMAC and SMACv2 by their unmodified clients, on whatever game SC2PATH has.

A program that speaks the game's protocol will do: nothing here depends on how battles end.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from launch import MPIRUN, PATIENT, environment, launch_command, needs_mpirun
from limits import TEST_S, wait_until
from playing import at_random

from sde_harl.config.schema import EnvConfig
from sde_harl.drawing.canvas import FOE, ROLE_COLOURS
from sde_harl.envs.registry import make, make_watched
from sde_harl.envs.starcraft.install import game_folder, requires

pytestmark = pytest.mark.slow
MISSING = requires("smac")().missing or requires("smacv2")().missing
needs_game = pytest.mark.skipif(bool(MISSING), reason=MISSING)

SMAC_MAPS = (
    *("3m", "8m", "25m", "5m_vs_6m", "8m_vs_9m", "10m_vs_11m", "27m_vs_30m", "2m_vs_1z"),
    *("2s3z", "3s5z", "3s5z_vs_3s6z", "1c3s5z", "3s_vs_3z", "3s_vs_4z", "3s_vs_5z", "2s_vs_1sc"),
    *("MMM", "MMM2", "corridor", "6h_vs_8z", "so_many_baneling", "bane_vs_bane", "2c_vs_64zg"),
)
SMACV2_MAPS = [
    f"{race}_{size}"
    for race in ("terran", "protoss", "zerg")
    for size in ("5_vs_5", "10_vs_10", "10_vs_11", "20_vs_20", "20_vs_23")
]


def games_of(process: psutil.Process) -> list[psutil.Process]:
    """Returns the games among the descendants of a process."""
    found = []
    for each in process.children(recursive=True):
        try:
            # The launcher, too, has these words until it is the game.
            if "-listen" in each.cmdline():
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


class Played:
    """Games in worker processes, played at random."""

    def __init__(self, name: str, map_name: str, *, num_envs: int = 1, workers: int = 1) -> None:
        config = EnvConfig(
            name=name,
            map=map_name,
            backend="starcraft2",
            workers=workers,
            agent_id=True,
            last_action=True,
        )
        self.env = make(config, num_envs=num_envs, seed=1)
        self._rng = np.random.default_rng(0)
        self.step = self.env.reset()
        self.whole = np.zeros(num_envs, int)
        self.void = np.zeros(num_envs, int)
        self.returns: list[float] = []

    def play(self) -> Any:
        self.env.send(at_random(self.env, self.step, self._rng))
        step = self.step = self.env.recv()
        ended = step.terminated | step.truncated
        self.whole += ended & ~step.void
        self.void += step.void
        self.returns += step.returns[ended & ~step.void].tolist()
        return step

    def play_episodes(self, count: int) -> None:
        """Plays until every environment has ended so many whole episodes."""
        until = self.whole + count
        while (self.whole < until).any():
            self.play()

    def check(self) -> None:
        """Asserts what holds of every step."""
        spec, step = self.env.spec, self.step
        assert step.available_actions.any(-1).all()
        assert np.isfinite(step.obs).all()
        assert len(set(spec.obs_sizes)) == 1
        # All enemies' health, their deaths and the win are worth 20; shields grow again.
        assert np.max(self.returns, initial=0.0) <= 40


@pytest.fixture
def orphans() -> Iterator[None]:
    """Asserts that a test leaves no game behind."""
    yield
    assert not games_of(psutil.Process())


@needs_game
@pytest.mark.usefixtures("orphans")
@pytest.mark.parametrize(
    ("name", "map_name"),
    [*(("smac", each) for each in SMAC_MAPS), *(("smacv2", each) for each in SMACV2_MAPS)],
)
def test_every_map_plays_an_episode_and_begins_another(name: str, map_name: str) -> None:
    played = Played(name, map_name)
    played.play_episodes(1)
    played.play()
    played.check()
    assert played.env.spec.name == f"{name}/{map_name}"
    if name == "smac":
        assert "" not in played.env.spec.unit_types
    played.env.close()


@needs_game
@pytest.mark.usefixtures("orphans")
@pytest.mark.parametrize(("name", "map_name"), [("smac", "3s5z"), ("smacv2", "terran_5_vs_5")])
def test_twenty_episodes_on_end(name: str, map_name: str) -> None:
    played = Played(name, map_name)
    first = games_of(psutil.Process())
    played.play_episodes(20)
    played.check()
    assert not played.void.any()
    assert games_of(psutil.Process()) == first, "all in one game"
    assert played.env.state_dict()["episodes"].tolist() == played.whole.tolist()
    played.env.close()


@needs_game
def test_a_seed_of_smacv2_repeats_teams_and_places() -> None:
    starts = []
    for _ in range(2):
        played = Played("smacv2", "zerg_5_vs_5")
        starts.append([played.step.state.copy()])
        for _ in range(3):
            played.play_episodes(1)
            starts[-1].append(played.step.state.copy())
        played.env.close()
    np.testing.assert_array_equal(starts[0], starts[1])
    assert len(np.unique(np.concatenate(starts[0]), axis=0)) == 4


@pytest.fixture
def one_launch_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has SC2PATH name a game whose first launch fails; gives the folder that this makes."""
    game, failed = tmp_path / "game", tmp_path / "failed"
    real = game_folder()
    game.mkdir()
    for each in real.iterdir():
        if each.name != "Versions":
            (game / each.name).symlink_to(each.resolve())
    for binary in real.glob("Versions/Base*/SC2_x64"):
        wrapper = game / binary.relative_to(real)
        wrapper.parent.mkdir(parents=True)
        # mkdir succeeds once, whoever tries.
        fails = f'mkdir "{failed}" 2>/dev/null && exit 3'
        wrapper.write_text(f'#!/bin/sh\n{fails}\nexec "{binary.resolve()}" "$@"\n')
        wrapper.chmod(0o755)
    monkeypatch.setenv("SC2PATH", str(game))
    return failed


@needs_game
@pytest.mark.usefixtures("orphans")
def test_eight_games_that_are_killed_and_stopped_account_for_every_episode(
    one_launch_fails: Path,
) -> None:
    """One launch that fails, five kills and three stops at random; fifty episodes each."""
    played = Played("smac", "3m", num_envs=8, workers=4)
    assert one_launch_fails.is_dir()
    chance = random.Random(0)
    faults = [signal.SIGKILL] * 5 + [signal.SIGSTOP] * 3
    chance.shuffle(faults)
    for fault in faults:
        for _ in range(chance.randrange(20, 60)):
            played.play()
        chance.choice(games_of(psutil.Process())).send_signal(fault)
    played.play_episodes(1)
    while (played.whole < 50).any():
        played.play()
    # A game that is struck where an episode ends is lost at the reset: no episode is void then.
    assert 0 < played.void.sum() <= len(faults)
    assert played.env.state_dict()["episodes"].tolist() == played.whole.tolist()
    played.check()
    assert max(played.returns) <= 20.001, "max_reward is what it was"
    played.env.close()


@needs_game
@pytest.mark.parametrize(
    "victim", ["trainer", "worker"], ids=["the trainer", "a worker of the trainer"]
)
def test_a_run_that_is_killed_leaves_no_game(victim: str, tmp_path: Path) -> None:
    words = "quick env.name=smac env.map=3m env.backend=starcraft2 env.workers=2 policy.groups=[]"
    keys = f"train.envs=4 train.slots=2 train.rollout=20 record.dir={tmp_path}"
    command = [sys.executable, "-m", "sde_harl.run", *words.split(), *keys.split()]
    trainer = subprocess.Popen([*command, "train.steps=1000000"], env=environment())
    parent = psutil.Process(trainer.pid)
    wait_until(
        lambda: len(games_of(parent)) == 4 and [*tmp_path.glob("**/run.h5")],
        "four games and a record",
        is_alive=lambda: trainer.poll() is None,
    )
    started = games_of(parent)
    if victim == "trainer":
        trainer.kill()
    else:
        os.kill(started[0].ppid(), signal.SIGKILL)
    trainer.wait()
    wait_until(lambda: not any(each.is_running() for each in started), "the end of the games")


@needs_game
@pytest.mark.usefixtures("orphans")
def test_a_watched_episode_is_drawn_and_leaves_its_replay(tmp_path: Path) -> None:
    # In this process, where the two clients can't be imported together: smac alone.
    config = EnvConfig(name="smac", map="MMM", backend="starcraft2")
    watched = make_watched(config, [ROLE_COLOURS[0]] * 10, seed=1, env=0, replays=tmp_path)
    env = watched.vector
    step = env.reset()
    rng = np.random.default_rng(0)
    is_over = False
    while not is_over:
        env.send(at_random(env, step, rng))
        step = env.recv()
        is_over = bool(step.terminated[0] | step.truncated[0])
        picture = watched.artist.picture()
        assert picture is not None
    colours = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    assert {ROLE_COLOURS[0], FOE} & colours, "somebody is left"
    env.close()
    [replay] = tmp_path.glob("*.SC2Replay")
    assert replay.stat().st_size > 0
    [version] = tmp_path.glob("*.version.txt")
    assert version.read_text().startswith("StarCraft II 4.")


@needs_game
def test_a_run_trains_on_the_game_and_records_its_version(tmp_path: Path) -> None:
    words = "quick env.name=smacv2 env.map=terran_5_vs_5 env.workers=2 policy.groups=[]"
    keys = "train.envs=4 train.slots=2 train.rollout=50 train.steps=1000 eval.episodes=4"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "sde_harl.run",
            *words.split(),
            *keys.split(),
            f"record.dir={tmp_path}",
        ],
        env=environment(),
        check=True,
    )
    [record] = tmp_path.glob("**/run.h5")
    with h5py.File(record) as file:
        assert "(build " in file["meta"].attrs["game_version"]
        assert file["episodes/train"][:].sum() > 0
        assert (~file["episodes/train"][:]).sum() == 4


@needs_game
@needs_mpirun
@pytest.mark.usefixtures("orphans")
def test_the_main_job_trains_as_it_is_typed(tmp_path: Path) -> None:
    words = "-np 9 --hostfile hostfiles/localhost"
    run = "-m sde_harl.run configs/smac_starcraft.yaml train.steps=5000"
    keys = [f"record.dir={tmp_path}", PATIENT]
    ended = launch_command(
        [str(MPIRUN), *words.split(), sys.executable, *run.split(), *keys], base_s=TEST_S
    )
    assert ended.code == 0, ended.err
    [record] = tmp_path.glob("**/run.h5")
    # Whole rollouts: 160 steps of 20 games, twice.
    vector_steps = 320
    slots = 2
    agents = 8
    with h5py.File(record) as file:
        assert file["meta"].attrs["env"] == "smac/3s5z"
        assert "(build " in file["meta"].attrs["game_version"]
        tables = {
            table: {name: column[:] for name, column in file[table].items()}
            for table in ("decisions", "episodes", "training", "evaluations", "faults")
        }
    assert len(tables["training"]["step"]) == 2
    assert tables["evaluations"]["episodes"].tolist() == [40]
    assert (tables["episodes"]["train"] == 0).sum() == 40
    assert not len(tables["faults"]["step"])
    decisions = tables["decisions"]
    trained = np.bincount(decisions["agent"][decisions["train"]], minlength=agents)
    assert trained.tolist() == [vector_steps * slots] * agents
    np.testing.assert_array_equal(decisions["rank"], 1 + decisions["agent"])
    assert not (decisions["idle"] | decisions["deadline_missed"]).any()
    # Coded: a message of ten latents of 32 numbers has a few bits for each number.
    bits = 8 * decisions["payload_bytes"] / (decisions["environments"] * 32)
    assert 1 < bits.mean() < 8
    assert (8 * decisions["payload_bytes"] > decisions["ideal_bits"]).all()
