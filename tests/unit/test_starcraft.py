"""StarCraft II by its clients' look-alike, which has the real clients' faults.

test_starcraft_clients.py plays the real ones.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from launch import environment
from limits import wait_until
from playing import at_random
from small_runs import SMALL, run

from sde_harl.cli import main as cli
from sde_harl.config.schema import EnvConfig
from sde_harl.drawing.canvas import FOE, ROLE_COLOURS
from sde_harl.envs.base import EnvStep
from sde_harl.envs.registry import make, make_games
from sde_harl.envs.vector.games import SerialVector
from sde_harl.errors import UserError

LOOKALIKE = Path(__file__).parents[1] / "helpers" / "lookalike"
SMAC = EnvConfig(name="smac", map="3m", backend="starcraft2")
SMACV2 = EnvConfig(name="smacv2", map="zerg_5_vs_5", backend="starcraft2")
MAX_REWARD = 3 * 10 + 200 + 3 * 45.0


def install_game(folder: Path, command: str) -> None:
    """Makes a folder that passes for an installed game, whose binary is a shell command."""
    binary = folder / "Versions" / "Base75689" / "SC2_x64"
    binary.parent.mkdir(parents=True)
    binary.write_text(f"#!/bin/sh\n{command}\n")
    binary.chmod(0o755)
    (folder / "Maps").mkdir()
    for name in ("3m", "2s3z", "10gen_zerg"):
        (folder / "Maps" / f"{name}.SC2Map").touch()


@pytest.fixture
def game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has the look-alike be imported as smac, smacv2 and pysc2; gives the game's folder."""
    monkeypatch.syspath_prepend(str(LOOKALIKE))
    folder = tmp_path / "game"
    install_game(folder, f'exec "{sys.executable}" -I -S "{LOOKALIKE}/game.py" "$@"')
    monkeypatch.setenv("SC2PATH", str(folder))
    return folder


@pytest.fixture
def waits(game: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collects what would be waited between failures, and waits for none of it."""
    from sde_harl.envs.starcraft import supervisor

    waited: list[float] = []
    monkeypatch.setattr(supervisor, "time", SimpleNamespace(sleep=waited.append))
    return waited


class Played:
    """One game in a vector of its own, played at random."""

    def __init__(self, config: EnvConfig = SMAC) -> None:
        [self.battle] = make_games(config, count=1)
        self.client: Any = self.battle._client  # type: ignore[attr-defined]
        self.env = SerialVector([self.battle], seed=1, first_env=0)
        self._rng = np.random.default_rng(0)
        self.step = self.env.reset()

    def pid(self) -> int:
        return int(self.client._sc2_proc.pid)

    def play(self) -> EnvStep:
        self.env.send(at_random(self.env, self.step, self._rng))
        self.step = self.env.recv()
        return self.step

    def play_episode(self) -> EnvStep:
        while not self.play().terminated[0] and not self.step.truncated[0]:
            pass
        return self.step


@pytest.fixture
def played(waits: list[float]) -> Iterator[Played]:
    made = Played()
    yield made
    made.env.close()
    assert not psutil.Process().children(recursive=True)


def test_the_spec_is_the_clients(played: Played) -> None:
    spec = played.env.spec
    assert spec.name == "smac/3m"
    assert spec.unit_types == ("marine",) * 3
    assert (spec.state_size, spec.episode_limit, spec.has_win) == (6, 12, True)
    assert played.step.active.all()
    assert not played.step.available_actions[..., spec.noop].any()
    idle = spec.idle(played.step.available_actions)
    assert (idle == 1).all(), "the living stop"


def test_ids_and_last_actions_are_options(waits: list[float]) -> None:
    plain = make(SMAC, num_envs=1, seed=1)
    told = make(SMAC.model_copy(update={"agent_id": True, "last_action": True}), num_envs=1, seed=1)
    actions, agents = 9, 3
    assert told.spec.obs_sizes[0] == plain.spec.obs_sizes[0] + agents * actions + agents
    told.reset()
    told.send(np.full((1, agents, 1), 2, np.int32))
    obs = told.recv().obs[0]
    np.testing.assert_array_equal(obs[:, -agents:], np.eye(agents))
    np.testing.assert_array_equal(obs[:, -agents - actions : -agents], np.eye(actions)[[2] * 3])
    told.close()


def test_episodes_end_by_win_defeat_or_limit(played: Played) -> None:
    ends = []
    for _ in range(30):
        step = played.play_episode()
        ends.append((bool(step.terminated[0]), int(step.won[0])))
        assert step.truncated[0] == (not step.terminated[0])
        assert not step.void[0]
    assert {(True, 1), (False, 0)} <= set(ends), "won; lost by the limit"
    assert played.client.max_reward == MAX_REWARD


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_lost_game_voids_its_episode_and_is_replaced(
    how: signal.Signals, played: Played, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sde_harl.envs.starcraft import process

    played.play_episode()
    seed, first = played.env.episode_seeds()[0], played.pid()
    played.play()
    with monkeypatch.context() as patch:
        if how == signal.SIGSTOP:
            patch.setattr(process, "ANSWER_TIMEOUT_S", 0.1)
        os.kill(first, how)
        step = played.play()
    assert (step.void[0], step.terminated[0], step.rewards[0], step.won[0]) == (True, True, 0, -1)
    assert not psutil.pid_exists(first)
    assert played.pid() != first
    assert played.env.episode_seeds()[0] == seed, "it is played again"
    assert waits == [1.0]
    assert played.client.max_reward == MAX_REWARD
    assert not played.play_episode().void[0]
    assert played.env.state_dict()["episodes"].tolist() == [2]


def test_a_reset_in_mid_episode_never_reaches_the_client(played: Played) -> None:
    """The look-alike refuses a second reset, as it would corrupt the real client's episode."""
    first = played.pid()
    for steps in (0, 3):
        for _ in range(steps):
            played.play()
        played.step = played.env.reset()
    assert played.pid() == first
    assert len(played.client.resets) == 3


def test_whole_episodes_leave_a_replay_and_the_games_version(
    played: Played, tmp_path: Path
) -> None:
    assert played.battle.record(tmp_path)
    seeds = []
    for _ in range(2):
        seeds.append(played.env.episode_seeds()[0])
        played.play_episode()
    played.play()
    os.kill(played.pid(), signal.SIGKILL)
    assert played.play().void[0], "of which there is no replay"
    assert {each.name for each in tmp_path.glob("3m-*")} == {
        f"3m-seed-{seed}.{kind}" for seed in seeds for kind in ("SC2Replay", "version.txt")
    }
    assert (tmp_path / f"3m-seed-{seeds[0]}.SC2Replay").read_bytes() == b"replay"
    version = (tmp_path / f"3m-seed-{seeds[0]}.version.txt").read_text()
    assert version == "StarCraft II 4.10.0.75689\n"


def test_a_game_that_dies_before_its_replay_is_replaced(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played.battle.record(tmp_path)
    first = played.pid()
    with monkeypatch.context() as patch:
        # Where there is nothing to call, calling it is an error.
        patch.setattr(played.client._sc2_proc.controller, "save_replay", None)
        assert not played.play_episode().void[0], "all of it was played"
    assert not [*tmp_path.glob("3m-*")]
    assert played.pid() != first


def test_a_battle_is_drawn_as_the_client_sees_it(played: Played) -> None:
    from sde_harl.envs.starcraft.view import battle_of

    picture = played.battle.picture(ROLE_COLOURS[:3])
    assert picture is not None
    for colour in (*ROLE_COLOURS[:3], FOE):
        assert (np.abs(picture.astype(int) - colour).max(-1) < 20).any()
    played.client.last_action = np.eye(played.client.n_actions)[[6, 2, 8]]
    played.client.enemies[1].health = 9.0
    battle = battle_of(played.client)
    assert battle.types == ["marine"] * 6
    assert battle.target.tolist() == [3, 1, 5, 3, 4, 5], "by the unit's number"
    assert battle.health.tolist() == [1, 1, 1, 1, 0.2, 1]
    assert not battle.fired.any()


def test_a_healers_choices_are_agents(played: Played) -> None:
    from sde_harl.envs.starcraft.view import battle_of

    played.client.medivac_id = played.client.marine_id
    played.client.last_action = np.eye(played.client.n_actions)[[7, 1, 0]]
    assert battle_of(played.client).target.tolist() == [1, 1, 2, 3, 4, 5]


def test_replays_of_the_games_that_are_watched(
    game: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(
        *["--env", "smac", "--algo", "happo", "env.backend=starcraft2", "env.map=3m", *SMALL],
        *["env.workers=0", "train.steps=120", f"record.dir={tmp_path / 'runs'}"],
    )
    replays = tmp_path / "replays"
    words = ["play", str(folder), "--episodes", "2", "--replays", str(replays)]
    assert cli.main([*words, "--video", str(tmp_path / "a.gif")]) == 0
    assert f"the game's own recordings are in {replays}" in capsys.readouterr().out
    assert len([*replays.glob("*.SC2Replay")]) == 2
    assert (tmp_path / "a.gif").stat().st_size > 10_000


def test_a_game_that_grew_is_replaced_between_episodes(
    played: Played, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sde_harl.envs.starcraft import supervisor

    monkeypatch.setattr(supervisor, "RECYCLE_BYTES", 1)
    first = played.pid()
    assert not played.play_episode().void[0]
    assert not psutil.pid_exists(first)
    assert played.client.max_reward == MAX_REWARD
    assert not waits, "that is no failure"


def test_a_game_that_never_starts_ends_the_run_by_name(game: Path, waits: list[float]) -> None:
    (game / "Versions" / "Base75689" / "SC2_x64").write_text("#!/bin/sh\nexit 3\n")
    env = make(SMAC, num_envs=1, seed=1)
    with pytest.raises(UserError, match=r"^StarCraft II failed 5 times in a row: SC2LaunchError: "):
        env.reset()
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_a_launch_that_fails_once_is_tried_again(game: Path, waits: list[float]) -> None:
    binary = game / "Versions" / "Base75689" / "SC2_x64"
    works = binary.read_text()
    binary.write_text(f'#!/bin/sh\nmv "{binary}.works" "{binary}"\nexit 3\n')
    other = binary.with_name("SC2_x64.works")
    other.write_text(works)
    other.chmod(0o755)
    played = Played()
    assert waits == [1.0]
    assert not played.play_episode().void[0]
    played.env.close()


def test_ports_are_leased(game: Path) -> None:
    from sde_harl.envs.starcraft.process import PortLease

    leases = [PortLease() for _ in range(3)]
    ports = {lease.port for lease in leases}
    assert len(ports) == 3
    leases[0].end()
    again = PortLease()
    assert again.port == leases[0].port
    for lease in (*leases, again):
        lease.end()


def test_a_seed_of_smacv2_decides_teams_and_places(game: Path, waits: list[float]) -> None:
    first, again = (Played(SMACV2) for _ in range(2))
    for each in (first, again):
        each.play_episode()
        each.play_episode()
        each.env.close()
    assert first.client.resets == again.client.resets
    assert len({str(drawn) for drawn in first.client.resets}) == 3
    assert first.env.spec.name == "smacv2/zerg_5_vs_5"
    assert first.client.max_reward == 5 * 10 + 200 + 5 * 45.0, "of this episode's enemies"


def test_units_that_cannot_be_placed_are_drawn_anew(
    game: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(SMACV2)
    from smacv2.env.starcraft2.wrapper import StarCraft2Env

    StarCraft2Env.unplaceable = 1
    played.play_episode()
    *_, refused, taken = played.client.resets
    assert refused != taken
    assert waits == [1.0]
    played.env.close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SMAC.model_copy(update={"map": "3n"}), r"env\.map: .*'3n'; choose one of: 3m, 2s3z"),
        (SMACV2.model_copy(update={"map": "zerg_5_vs_6"}), r"env\.map: .*: zerg_5_vs_5, "),
        (SMACV2.model_copy(update={"map": "terran_5_vs_5"}), r"env\.map: 10gen_terran.SC2Map is "),
        (SMAC.model_copy(update={"continuous_actions": True}), r"env\.continuous_actions: smac "),
    ],
)
def test_what_a_user_can_mend_is_named(config: EnvConfig, message: str, game: Path) -> None:
    with pytest.raises(UserError, match=message):
        make(config, num_envs=1, seed=1)


def test_without_pysc2_the_line_says_how_to_install(
    game: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("smac", "process"):
        monkeypatch.delitem(sys.modules, f"sde_harl.envs.starcraft.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "pysc2.lib", None)
    with pytest.raises(UserError, match=r"needs the package pysc2.*: jobs/install_sc2\.sh$"):
        make(SMAC, num_envs=1, seed=1)


KEYS = (
    "quick env.name=smac env.map=3m env.backend=starcraft2 policy.groups=[] train.envs=4 "
    "train.slots=2 train.rollout=20 train.steps=400 eval.episodes=4 eval.interval=0"
)


def test_a_run_drops_and_counts_void_episodes(game: Path, tmp_path: Path) -> None:
    """In a run whose games die every few episodes, the record has whole episodes only."""
    binary = game / "Versions" / "Base75689" / "SC2_x64"
    # Every game ends by itself after 40 answers.
    source = (LOOKALIKE / "game.py").read_text()
    source = source.replace("for line in connection", "for _, line in zip(range(40), connection")
    source = source.replace('("rb"):', '("rb")):')
    (game / "game.py").write_text(source)
    binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{game}/game.py" "$@"\n')
    folder = run(*KEYS.split(), f"record.dir={tmp_path}", "env.workers=1")
    with h5py.File(folder / "run.h5") as file:
        faults = [kind.decode() for kind in file["faults/kind"][:]]
        lengths = file["episodes/length"][:]
        train = file["episodes/train"][:]
        assert file["meta"].attrs["game_version"] == "4.10.0 (build 75689)"
        assert file["meta"].attrs["env"] == "smac/3m"
    assert set(faults) == {"void"}
    assert train.sum() > 20
    assert (~train).sum() == 4
    assert lengths.max() <= 12


HOLDS_GAMES = """
import time
from sde_harl.cli import main as cli
from sde_harl.config.schema import EnvConfig
from sde_harl.drawing.canvas import FOE, ROLE_COLOURS
from sde_harl.envs.registry import make
env = EnvConfig(name="smac", map="3m", backend="starcraft2", workers=2)
make(env, num_envs=3, seed=1).reset()
time.sleep(10000)
"""


def test_no_game_outlives_a_process_that_is_killed(game: Path) -> None:
    path = os.pathsep.join([str(LOOKALIKE), environment()["PYTHONPATH"]])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS_GAMES], env=environment() | {"PYTHONPATH": path}
    )
    parent = psutil.Process(holder.pid)

    def games() -> list[psutil.Process]:
        return [each for each in parent.children(True) if "game.py" in " ".join(each.cmdline())]

    wait_until(lambda: len(games()) == 3, "three games", is_alive=lambda: holder.poll() is None)
    started = games()
    holder.kill()
    holder.wait()
    wait_until(lambda: not any(each.is_running() for each in started), "the end of the games")
