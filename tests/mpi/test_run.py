"""The program as its users start it.

Placements agree, bad input gives one line, and Ctrl-C and full disks lose nothing.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from launch import (
    MPIRUN,
    PATIENT,
    Ended,
    command,
    environment,
    kill_all,
    launch,
    launch_command,
    needs_mpirun,
)
from limits import hang_limit_s, wait_until

QUICK = ["-m", "sde_harl.run", "configs/quick.yaml", "train.threads=1", "record.tensorboard=false"]
QUICK += [PATIENT]
LIGHT = [*QUICK, "env.name=mpe", "env.map=simple_spread", "env.backend=mpe2", "env.workers=0"]
"""A run that needs no JAX: its import and compilation take longer than the rest of a short run."""
AGREE = [
    "tests/helpers/agree_program.py",
    "configs/smac.yaml",
    "train.threads=1",
    "record.tensorboard=false",
]
AGREE += [
    "train.envs=8",
    "train.rollout=60",
    "algo.epochs=2",
    "policy.width=16",
    PATIENT,
]  # 8 x 60 x 2: 120 steps of each


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    ended = launch(
        1, *AGREE, f"record.dir={tmp_path_factory.mktemp('alone')}", "placement.mode=local"
    )
    assert ended.code == 0, ended.err
    result: dict[str, object] = json.loads(ended.out.splitlines()[-1])
    return result


@needs_mpirun
@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow), 9])
def test_agents_on_other_ranks_decide_the_same_bits(
    ranks: int, alone: dict[str, object], tmp_path: Path
) -> None:
    ended = launch(ranks, *AGREE, f"record.dir={tmp_path}")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out.splitlines()[-1])
    assert result["executors"] == ranks - 1
    assert result["prints"] == alone["prints"]
    tables = []
    for folder in (result["folder"], str(alone["folder"])):
        with h5py.File(Path(folder) / "run.h5") as file:
            decisions, columns = file["decisions"], ("payload_bytes", "ideal_bits", "agent")
            tables.append({name: decisions[name][:].tolist() for name in columns})
    assert tables[0] == tables[1]


WHOLE = ["policy.local_blocks=4", "codec.name=none", "record.decisions=false"]


@needs_mpirun
def test_whole_policies_decide_the_same_on_other_ranks(tmp_path: Path) -> None:
    prints = []
    for ranks, mode in ((1, "local"), (4, "agents")):
        ended = launch(ranks, *AGREE, *WHOLE, f"record.dir={tmp_path}", f"placement.mode={mode}")
        assert ended.code == 0, ended.err
        prints.append(json.loads(ended.out.splitlines()[-1])["prints"])
    assert prints[0] == prints[1]


SEEN = [
    "tests/helpers/agree_program.py",
    "--env",
    "pettingzoo",
    "--algo",
    "happo",
    "env.factory=odd_envs:Seekers",
    *WHOLE,
]
SEEN += ["train.envs=8", "train.rollout=10", "algo.chunk=5", "policy.blocks=4", "policy.width=16"]
SEEN += ["policy.recurrent=true", "record.tensorboard=false", PATIENT]


@needs_mpirun
def test_devices_that_see_and_remember_decide_the_same_on_other_ranks(tmp_path: Path) -> None:
    """Rollouts of ten steps end amid episodes of six, so that memories pass to the next rollout."""
    prints = []
    for ranks, mode in ((1, "local"), (3, "agents")):
        ended = launch(ranks, *SEEN, f"record.dir={tmp_path}", f"placement.mode={mode}")
        assert ended.code == 0, ended.err
        prints.append(json.loads(ended.out.splitlines()[-1])["prints"])
    assert prints[0] == prints[1]


REPLAY = [
    "tests/helpers/agree_program.py",
    "--algo",
    "hasac",
    "--env",
    "mpe",
    "env.workers=0",
    "train.envs=8",
    "train.rollout=40",
    "algo.warmup_steps=200",
    "algo.updates=0.2",
    "algo.batch_size=64",
    "policy.width=16",
    "record.tensorboard=false",
    PATIENT,
]


@pytest.mark.slow
@needs_mpirun
@pytest.mark.parametrize(
    "words",
    [
        ["env.continuous_actions=false"],
        ["env.continuous_actions=true", "policy.local_blocks=3", "codec.name=none"],
    ],
    ids=["split", "whole"],
)
def test_agents_of_a_replay_decide_the_same_on_other_ranks(
    words: list[str], tmp_path: Path
) -> None:
    """The first rollout is random play, the second is drawn from what was learnt."""
    prints = []
    for ranks, mode in ((1, "local"), (4, "agents")):
        ended = launch(ranks, *REPLAY, *words, f"record.dir={tmp_path}", f"placement.mode={mode}")
        assert ended.code == 0, ended.err
        prints.append(json.loads(ended.out.splitlines()[-1])["prints"])
    assert prints[0] == prints[1]


def test_a_run_repeats(alone: dict[str, object], tmp_path: Path) -> None:
    ended = launch(1, *AGREE, f"record.dir={tmp_path}", "placement.mode=local")
    assert json.loads(ended.out.splitlines()[-1])["prints"] == alone["prints"]


def complaint(ended: Ended) -> str:
    """Returns the one line that a user sees; checks that there is no more, and no traceback."""
    assert "Traceback" not in ended.err + ended.out, ended.err
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ended.err
    return lines[0]


BAD = {
    "unknown key": (["configs/quick.yaml", "algo.lrr=1"], "algo.lrr"),
    "mistyped key": (["configs/quick.yaml", "train.envs=many"], "train.envs"),
    "missing file": (["configs/nowhere.yaml"], "configs/nowhere.yaml"),
    "unknown map": (["configs/quick.yaml", "env.map=3s6z"], "env.map"),
    "unknown algorithm": (["configs/quick.yaml", "algo.name=hapo"], "algo.name"),
    "folder": ([*LIGHT[2:], "record.dir=/proc/nowhere"], "/proc/nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_line(case: str) -> None:
    words, named = BAD[case]
    ended = launch(1, "-m", "sde_harl.run", *words)
    assert ended.code == 2
    assert named in complaint(ended)


@needs_mpirun
@pytest.mark.parametrize("case", ["unknown key", "unknown map", "folder"])
def test_bad_input_ends_every_rank(case: str) -> None:
    words, named = BAD[case]
    # A rank that waited for another would do so until the limit of `launch`.
    ended = launch(3, "-m", "sde_harl.run", *words, "placement.mode=agents", PATIENT)
    assert ended.code != 0
    assert named in complaint(ended)


@needs_mpirun
def test_ranks_that_cant_hold_the_placement_are_named() -> None:
    too_many = launch(5, *LIGHT)
    assert too_many.code != 0
    assert "-np 5" in complaint(too_many)
    local = launch(2, *LIGHT, "placement.mode=local")
    assert local.code != 0
    assert "placement.mode" in complaint(local)
    pinned = launch(2, *LIGHT, "placement.assign={0: 7}")
    assert pinned.code != 0
    assert "placement.assign" in complaint(pinned)


@needs_mpirun
def test_an_executor_of_another_version_is_named(tmp_path: Path) -> None:
    pretend = "import sys, sde_harl; sde_harl.__version__ = '0.0.9'"
    old = f"{pretend}; from sde_harl.run import main; sys.exit(main([]))"
    words = [str(MPIRUN), "-np", "1", sys.executable, *LIGHT, f"record.dir={tmp_path}"]
    ended = launch_command([*words, ":", "-np", "1", sys.executable, "-c", old])
    assert ended.code != 0
    line = complaint(ended)
    assert "0.0.9" in line
    assert "executor 1" in line


def test_help_and_print_config_are_enough() -> None:
    told = launch(1, "-m", "sde_harl.run", "--help")
    assert told.code == 0
    assert "codec.rate_coef" in told.out
    assert "mpirun" in told.out
    shown = launch(1, "-m", "sde_harl.run", "configs/quick.yaml", "--print-config", "seed=5")
    assert shown.code == 0
    assert "seed: 5" in shown.out


def newest(folder: Path) -> Path:
    return max(folder.rglob("run.h5"))


def updates(folder: Path) -> int:
    """Returns how many updates the run below a folder has told of."""
    return sum(file.read_text().count("\n") - 1 for file in folder.rglob("metrics.csv"))


@pytest.mark.parametrize("ranks", [1, pytest.param(4, marks=needs_mpirun)])
def test_ctrl_c_stops_all_ranks_and_saves(ranks: int, tmp_path: Path) -> None:
    words = command(ranks, *LIGHT, f"record.dir={tmp_path}", "train.steps=10000000")
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        text=True,
    )
    try:
        wait_until(lambda: updates(tmp_path), "an update", is_alive=lambda: process.poll() is None)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=hang_limit_s())
    finally:
        kill_all(process)
    assert process.returncode != 0
    assert "Traceback" not in out, out
    assert (newest(tmp_path).parent / "models" / "last.pt").exists()
    with h5py.File(newest(tmp_path)) as file:
        assert len(file["training"]["step"]) > 0


def limited(limit: int, *words: str) -> Ended:
    """Runs with every file bounded to `limit` bytes: writes beyond it fail as on a full disk."""

    def bound() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        )

    return launch_command([sys.executable, *words], prepare=bound)


@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_a_full_disk_stops_or_goes_on_as_configured(policy: str, tmp_path: Path) -> None:
    words = [*LIGHT, f"record.dir={tmp_path}", f"record.on_disk_full={policy}", "train.steps=4096"]
    ended = limited(1_000_000, *words)
    assert "Traceback" not in ended.err, ended.err
    assert ended.code == (4 if policy == "continue" else 2), ended.err
    assert "run.h5" in ended.err
    with h5py.File(newest(tmp_path)) as file:
        assert len(file["episodes"]["length"]) > 0


def test_an_executor_imports_nothing_heavy_and_stays_small() -> None:
    program = (
        "import sys, resource\n"
        "import sde_harl.run, sde_harl.executor.executor, sde_harl.codec.coder\n"
        "heavy = {'torch', 'jax', 'h5py', 'compressai', 'scipy', 'rich', 'yaml', 'pydantic',\n"
        "    'sde_harl.config.schema'} & set(sys.modules)\n"
        "print(heavy or 'light')"
    )
    ended = launch(1, "-c", program)
    assert ended.out.strip() == "light", ended.err


@needs_mpirun
def test_executors_stay_under_100_mb(tmp_path: Path) -> None:
    ended = launch(4, *LIGHT, f"record.dir={tmp_path}")
    assert ended.code == 0, ended.err
    with h5py.File(newest(tmp_path)) as file:
        rank, peak = file["resources"]["rank"][:], file["resources"]["peak_rss_bytes"][:]
    assert set(rank) == {0, 1, 2, 3}
    assert peak[rank > 0].max() < 100e6


def test_evaluations_can_be_recorded_whole(tmp_path: Path) -> None:
    ended = launch(
        1, *QUICK, f"record.dir={tmp_path}", "record.trajectories=eval", "train.steps=256"
    )
    assert ended.code == 0, ended.err
    with h5py.File(newest(tmp_path)) as file:
        episodes = {
            name: file["episodes"][name][:] for name in ("train", "seed", "return", "length")
        }
        evaluated = ~episodes["train"]
        recorded = {int(group.attrs["seed"]): group for group in file["trajectories"].values()}
        assert len(recorded) == evaluated.sum() == 8
        for seed, total, length in zip(
            *(episodes[name][evaluated] for name in ("seed", "return", "length"))
        ):
            group = recorded[int(seed)]
            assert group["observations/ally_0"].shape == (length + 1, 75)
            assert group["actions/ally_2"].shape == (length,)
            assert abs(group["rewards"][:].sum() - total) < 1e-5
            assert group["terminations"][:].sum() + group["truncations"][:].sum() == 1
