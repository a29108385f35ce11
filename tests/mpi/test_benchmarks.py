"""Every benchmark runs as a program, prints a table and writes rows that programs can read."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from launch import ROOT, launch, needs_mpirun

NAMES = {
    "agents": r"agents/\d+/(decision|agent)",
    "codec": r"codec/batch\d+/\w+",
    "conv": r"conv/\d+x\d+x\d+-k\d+-s\d+/batch\d+",
    "local": r"local/width\d+/batch\d+",
    "decision": r"decision/ranks9/batch\d+/p\d+",
    "update": r"update/(\w+/(whole|critic|policies)|diversity|acting)",
    "replay": r"replay/(sample(/one)?|memory|\w+/update)",
    "football": r"football/academy_3_vs_1_with_keeper/(run(/share[./]\w+)?|processor)",
    "scaling": r"scaling/(ranks\d+|fit)/[a-z_]+",
    "train": r"train/happo/3m/smax(/agents4)?(/share[./]\w+)?",
}
QUICK = ["--quick"]
ARGUMENTS = {
    "agents": QUICK,
    "codec": [],
    "conv": QUICK,
    "local": QUICK,
    "decision": QUICK,
    "update": QUICK,
    "replay": QUICK,
    "football": QUICK,
    "scaling": [*QUICK, "--overlap"],
    "train": [*QUICK, "env.map=3m"],
}


def test_all_benchmarks_are_held_to_this() -> None:
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} == {*NAMES, "rows"}


SLOW = dict.fromkeys(("football", "scaling", "train"), pytest.mark.slow)
"""Their runs take longer than all other benchmarks together."""


@needs_mpirun
@pytest.mark.parametrize("name", [pytest.param(each, marks=SLOW.get(each, ())) for each in NAMES])
def test_a_benchmark_prints_a_table_and_writes_rows(name: str, tmp_path: Path) -> None:
    if name == "football" and importlib.util.find_spec("gfootball") is None:
        pytest.skip("football needs its engine: make football")
    out = tmp_path / "rows.json"
    ended = launch(1, f"benchmarks/{name}.py", *ARGUMENTS[name], "--json", str(out))
    assert ended.code == 0, ended.err
    rows = json.loads(out.read_text())
    assert rows
    for row in rows:
        assert set(row) == {"name", "value", "unit", "floor", "ratio"}
        assert re.fullmatch(NAMES[name], row["name"])
        assert row["value"] >= 0
        assert (row["floor"] is None) == (row["ratio"] is None)
        assert any(line.startswith(row["name"] + " ") for line in ended.out.splitlines())
    assert len({row["name"] for row in rows}) == len(rows)


def test_saved_rows_are_joined_and_printed(tmp_path: Path) -> None:
    row = {"name": "a/b", "value": 1.5, "unit": "us", "floor": None, "ratio": None}
    for name in ("one.json", "two.json"):
        (tmp_path / name).write_text(json.dumps([row]))
    files = [str(tmp_path / name) for name in ("one.json", "two.json")]
    ended = launch(1, "benchmarks/rows.py", *files, "--json", str(tmp_path / "all.json"))
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "all.json").read_text()) == [row, row]
    assert ended.out.count("a/b") == 2
    assert launch(1, "benchmarks/rows.py", str(tmp_path / "none.json")).code == 1
