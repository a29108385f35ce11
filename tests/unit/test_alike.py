"""Runs that differ in more than the seed are never counted together in silence."""

from __future__ import annotations

import json
from pathlib import Path

from analysis_runs import record, run

from sde_harl.analysis.alike import differences
from sde_harl.record.reader import open_run


def config(**sections: object) -> str:
    return json.dumps({"policy": {"blocks": 3, "local_blocks": 1}, "seed": 1, **sections})


def of(folder: Path, *metas: dict[str, str | int]) -> list[str]:
    paths = [record(folder / "main" / f"{k}", **meta) for k, meta in enumerate(metas)]
    return differences([open_run(path) for path in paths], lambda run: run.algo)


def test_seeds_and_files_make_no_difference(tmp_path: Path) -> None:
    one = config(record={"dir": "a"})
    other = config(seed=2, record={"dir": "b"}, train={"resume": "auto"})
    assert of(tmp_path, {"config": one}, {"config": other, "seed": 4}) == ["", ""]


def test_what_differs_is_named(tmp_path: Path) -> None:
    split = config(policy={"blocks": 3, "local_blocks": 2})
    budget = config(train={"steps": 100})
    assert of(
        tmp_path,
        {"config": config(), "git_revision": "a1"},
        {"config": split, "git_revision": "a1"},
        {"config": budget, "git_revision": "b2"},
        {"config": split, "git_revision": "a1", "algo": "other"},
    ) == [
        "code a1, policy.local_blocks 1, 1 more",
        "code a1, policy.local_blocks 2, 1 more",
        "code b2, policy.local_blocks 1, 1 more",
        "",
    ]


def test_a_name_has_no_more_keys_than_it_needs(tmp_path: Path) -> None:
    assert of(
        tmp_path,
        *({"config": config(algo={"a": k, "b": -k, "c": k // 2, "d": 7})} for k in (1, 2, 3)),
    ) == ["algo.a 1, 2 more", "algo.a 2, 2 more", "algo.a 3, 2 more"]


def test_a_comparison_keeps_unlike_runs_apart(tmp_path: Path) -> None:
    paths = [
        record(tmp_path / "a" / f"seed-{k}", seed=k, win_rate=0.5, git_revision=code)
        for k, code in ((1, "old"), (2, "old"), (3, "new"))
    ]
    rows = json.loads(run("compare.py", *paths, "--json").stdout)
    assert {row["name"]: row["seeds"] for row in rows} == {
        "happo, code old": ["1", "2"],
        "happo, code new": ["3"],
    }
    assert "smax/3m/happo/a, code old" in run("learning_curve.py", tmp_path / "a").stdout
