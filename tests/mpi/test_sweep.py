"""Sweeps: their runs are started, stopped, taken up again and reported."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from analysis_runs import run
from launch import ROOT, environment, launch
from limits import hang_limit_s

from sde_harl.cli.main import main
from sde_harl.record.finding import run_files

PRETEND = f"{sys.executable} {ROOT / 'tests' / 'helpers' / 'pretend_run.py'}"
QUICK = "configs/quick.yaml"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))


def test_a_failed_run_is_named_and_the_others_go_on_and_are_not_run_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [QUICK, "policy.width=13,17,23", f"record.dir={tmp_path}", "--mpirun", PRETEND]
    starts = tmp_path / "starts"
    assert main(["sweep", *words]) == 1
    out = capfd.readouterr().out
    assert starts.read_text().split() == ["13", "17", "23"]
    assert "[1/3 policy.width=13] failed: error: an unlucky width" in out
    assert "[2/3 policy.width=17] failed: its record is short of its steps" in out
    assert "[3/3 policy.width=23] a line of the run" in out
    index = json.loads((tmp_path / "sweeps" / "quick" / "sweep.json").read_text())
    assert list(index["runs"]) == ["policy.width=23"]
    assert len(index["failed"]) == 2
    assert [file.is_file() for file in run_files(tmp_path / "sweeps" / "quick")] == [True]
    assert main(["sweep", *words]) == 1
    assert starts.read_text().split()[3:] == ["13", "17"], "only what had failed"
    assert "finished before" in capfd.readouterr().out


def test_ctrl_c_stops_the_run_and_the_sweep_goes_on_from_there(tmp_path: Path) -> None:
    words = [QUICK, f"record.dir={tmp_path}", "--mpirun", PRETEND]
    command = [sys.executable, "-m", "sde_harl", "sweep", "policy.width=11,19", *words]
    env = {**environment(), "STARTS": str(tmp_path / "starts")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while not process.stdout.readline().endswith("waiting\n"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(hang_limit_s()) == 130
        assert "interrupted" in process.stderr.read()
    assert (tmp_path / "starts.saved").exists(), "the run was told to save"
    assert main(["sweep", "policy.width=11,23", *words]) == 0
    assert (tmp_path / "starts").read_text().split() == ["11", "19", "23"]


def test_runs_are_played_side_by_side(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [QUICK, "policy.width=29,31,13", f"record.dir={tmp_path}", "--mpirun", PRETEND]
    assert main(["sweep", "--jobs", "2", *words]) == 1, "each of two waits for the other's start"
    out = capfd.readouterr().out
    assert "[1/3 policy.width=29] finished" in out
    assert "[2/3 policy.width=31] finished" in out
    assert "[3/3 policy.width=13] failed: error: an unlucky width" in out
    index = json.loads((tmp_path / "sweeps" / "quick" / "sweep.json").read_text())
    assert sorted(index["runs"]) == ["policy.width=29", "policy.width=31"]


def test_a_sweep_is_not_started_by_mpirun(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert main(["sweep", QUICK, "seed=1,2"]) == 2
    assert capfd.readouterr().err.startswith("error: a sweep is started without mpirun")


def test_a_launcher_that_is_not_there_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [QUICK, "seed=1,2", f"record.dir={tmp_path}", "--mpirun", "no-such-mpirun -np 9"]
    assert main(["sweep", *words]) == 2
    assert (
        capfd.readouterr().err
        == "error: --mpirun: no-such-mpirun can't be started: No such file or directory\n"
    )


def test_a_sweep_over_splits_ends_in_their_table(tmp_path: Path) -> None:
    words = [
        "configs/mpe_spread.yaml",
        "policy.blocks=2",
        "policy.local_blocks=1,2",
        "codec.name=entropy",
    ]
    words += [
        "train.envs=4",
        "train.rollout=8",
        "train.steps=64",
        "algo.epochs=1",
        "eval.episodes=2",
    ]
    words += ["record.tensorboard=false", "env.backend=mpe2"]
    ended = launch(1, "-m", "sde_harl", "sweep", *words, f"record.dir={tmp_path}")
    assert ended.code == 0, ended.out + ended.err
    folder = next((tmp_path / "sweeps").iterdir())
    one, whole = json.loads(run("split.py", folder, "--json").stdout)
    assert (one["local_blocks"], one["codec"], whole["local_blocks"], whole["codec"]) == (
        1,
        "entropy",
        2,
        "none",
    )
    assert whole["figures"]["link"]["mean"] == whole["figures"]["server"]["mean"] == 0.0
    assert whole["figures"]["whole"] == whole["figures"]["device"]
    assert one["figures"]["link"]["mean"] > 0
    assert whole["figures"]["payload"]["mean"] == 8.0, "a choice and its log-probability"
    assert one["figures"]["steps"]["mean"] == 64.0
    assert one["one_process"]
