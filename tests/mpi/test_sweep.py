"""Sweeps: which runs a command line stands for, and that they are run, gone on with, and told of."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from analysis_runs import run
from filled import add
from launch import ROOT, environment, launch
from limits import hang_limit_s

from sde_harl.cli.main import main
from sde_harl.cli.trials import SweepPlan, finished, listed, plan
from sde_harl.config.layers import to_yaml
from sde_harl.errors import UserError
from sde_harl.record.reader import run_files
from sde_harl.record.writer import RunFile

PRETEND = f"{sys.executable} {ROOT / 'tests' / 'helpers' / 'pretend_run.py'}"
QUICK = "configs/quick.yaml"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))


def names(asked: SweepPlan) -> list[str]:
    return [trial.name for trial in asked.trials]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("seed=1,2,3", ["1", "2", "3"]),
        ("seed=1", ["1"]),
        ("policy.groups=[[0,1],[2]]", ["[[0,1],[2]]"]),
        ("policy.groups=[[0,1],[2]],[[0],[1,2]], []", ["[[0,1],[2]]", "[[0],[1,2]]", "[]"]),
        ("placement.assign={0: 1, 1: 2},{}", ["{0: 1, 1: 2}", "{}"]),
        ("record.exp=a=b,c", ["a=b", "c"]),
        ("record.exp=", [""]),
    ],
)
def test_lists_are_parted_at_commas_outside_brackets(word: str, values: list[str]) -> None:
    assert listed(word) == values


def test_every_combination_is_a_run_with_its_own_name_and_configuration() -> None:
    asked = plan([QUICK, "policy.width=8,16", "train.steps=7", "seed=1,2", "record.dir=/there"])
    assert asked.folder == Path("/there/sweeps/quick")
    assert names(asked) == [
        f"policy.width={width},seed={seed}" for width in (8, 16) for seed in (1, 2)
    ]
    configs = [trial.config for trial in asked.trials]
    assert [(each.policy.width, each.seed) for each in configs] == [
        (8, 1),
        (8, 2),
        (16, 1),
        (16, 2),
    ]
    assert {each.train.steps for each in configs} == {7}
    exps = [each.record.exp for each in configs]
    assert exps == ["quick,policy.width=8"] * 2 + ["quick,policy.width=16"] * 2, (
        "seeds are one experiment"
    )


def test_the_last_split_is_run_without_a_codec_and_once() -> None:
    asked = plan([QUICK, "policy.blocks=3", "policy.local_blocks=0,3", "codec.name=entropy,int8"])
    assert names(asked) == [
        "policy.local_blocks=0,codec.name=entropy",
        "policy.local_blocks=0,codec.name=int8",
        "policy.local_blocks=3,codec.name=none",
    ]
    assert [trial.config.codec.name for trial in asked.trials] == ["entropy", "int8", "none"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([QUICK, "seed=1"], "nothing to sweep over"),
        ([QUICK, "seed=1,,2"], "seed: an empty value"),
        ([QUICK, "seed=1,2,1"], "seed: a value is given twice"),
        ([QUICK, "seed=1,x"], "seed: expected a whole number, got 'x'"),
        ([QUICK, "record.exp=a,b"], "record.exp: one value"),
        (
            [QUICK, "policy.widht=8,16"],
            "policy.widht: no such key (command line); did you mean policy.width?",
        ),
        (
            [QUICK, "policy.blocks=3", "policy.local_blocks=0,4"],
            "policy.local_blocks: expected policy.blocks (3) or less",
        ),
        ([QUICK, "seed=1,2", "--print-config"], "--print-config"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(words: list[str], complaint: str) -> None:
    with pytest.raises(UserError) as error:
        plan(words)
    assert complaint in str(error.value) and "\n" not in str(error.value)


def test_a_run_counts_as_finished_by_its_record_and_configuration(tmp_path: Path) -> None:
    [config, other] = [
        each.config for each in plan([QUICK, "policy.width=8,16", f"record.dir={tmp_path}"]).trials
    ]
    folder = tmp_path / "smax" / "3m" / "happo" / config.record.exp / "seed-1-20260101-000000"
    folder.mkdir(parents=True)
    assert finished(config) is None, "an empty folder"
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "run.h5").write_bytes(b"cut short")
    assert finished(config) is None
    for step, whole in ((config.train.steps - 1, False), (config.train.steps, True)):
        (folder / "run.h5").unlink()
        file = RunFile(folder / "run.h5", {}, "stop")
        add(file, "evaluations", step=step, episodes=8, win_rate=0.5, return_mean=1.0, return_std=1.0,
                 length_mean=20.0, bits_per_element=1.0, bytes_per_decision=5.0)  # fmt: skip
        file.close()
        assert (finished(config) == folder) == whole
    (folder / "config.yaml").write_text(to_yaml(other))
    assert finished(config) is None, "it was asked to be something else"


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
    assert list(index["runs"]) == ["policy.width=23"] and len(index["failed"]) == 2
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
        assert process.stdout is not None and process.stderr is not None
        while not process.stdout.readline().endswith("waiting\n"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(hang_limit_s()) == 130
        assert "interrupted" in process.stderr.read()
    assert (tmp_path / "starts.saved").exists(), "the run was told to save"
    assert main(["sweep", "policy.width=11,23", *words]) == 0
    assert (tmp_path / "starts").read_text().split() == ["11", "19", "23"]


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
    assert (
        whole["figures"]["whole"] == whole["figures"]["device"]
        and one["figures"]["link"]["mean"] > 0
    )
    assert whole["figures"]["payload"]["mean"] == 8.0, "a choice and its log-probability"
    assert one["figures"]["steps"]["mean"] == 64.0 and one["one_process"]
