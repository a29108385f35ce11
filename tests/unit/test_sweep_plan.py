"""The runs that the command line of a sweep stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from filled import add_evaluation
from launch import ROOT

from sde_harl.cli.trials import SweepPlan, finished, listed, plan
from sde_harl.config.layers import to_yaml
from sde_harl.errors import UserError
from sde_harl.record.writer import RunFile

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
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


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
        add_evaluation(file, step)
        file.close()
        assert (finished(config) == folder) == whole
    (folder / "config.yaml").write_text(to_yaml(other))
    assert finished(config) is None, "it was asked to be something else"


def test_trust_in_a_file_is_passed_on_to_every_run(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("env: {name: pettingzoo, factory: 'odd_envs:Corridor'}\nalgo: {name: happo}\n")
    with pytest.raises(UserError, match=r"^env\.factory: expected --trust on the command line"):
        plan([str(file), "seed=1,2"])
    asked = plan([str(file), "--trust", "seed=1,2"])
    assert all("--trust" in trial.words for trial in asked.trials)
