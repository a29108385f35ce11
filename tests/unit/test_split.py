"""The table and figure of a sweep over splits, on records of known figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import analysis_runs
import pytest
from analysis_runs import opened_to_change, run
from split_runs import EDGES, MESSAGES, ROWS, SAME, record

from sde_harl.analysis.consumption import summarise
from sde_harl.analysis.efficiency import efficiency
from sde_harl.cli.trials import write_index
from sde_harl.config.layers import to_yaml
from sde_harl.config.schema import Config
from sde_harl.record.reader import open_run
from sde_harl.record.writer import RunFile
from sde_harl.report import costs


def splits(*paths: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("split.py", *paths, "--json").stdout)
    return found


def means(split: dict[str, Any]) -> dict[str, float]:
    return {name: figure["mean"] for name, figure in split["figures"].items()}


def test_every_figure_is_what_was_measured(tmp_path: Path) -> None:
    [split] = splits(record(tmp_path / "a", 2))
    assert (split["local_blocks"], split["blocks"], split["codec"], split["rows"]) == (
        2,
        3,
        "entropy",
        ROWS,
    )
    made = 2 * MESSAGES / 2 * ROWS  # after the first report, by both executors, who used 0.2 s each
    assert means(split) == pytest.approx(
        {
            "device": 25,
            "link": 400,
            "server": 100,
            "whole": 525,
            "whole_p95": 525,
            "payload": 28 / ROWS,
            "wire": 60 / ROWS,
            "observation": 80,
            "device_cpu": 0.4e6 / made,
            "device_mj": 4e3 / made,
            "steps": 512,
            "return_mean": 1,
            "win_rate": 0.25,
        }
    )


def test_a_whole_policy_needs_no_link_and_no_server(tmp_path: Path) -> None:
    figures = means(splits(record(tmp_path / "a", 3, "none"))[0])
    assert [figures[name] for name in ("device", "link", "server", "whole")] == pytest.approx(
        [30, 0, 0, 30]
    )


def test_splits_are_in_order_and_seeds_together(tmp_path: Path) -> None:
    paths = [record(tmp_path / f"{k}-{seed}", k, seed=seed) for k, seed in ((1, 2), (1, 1), (0, 1))]
    none, one = splits(*paths)
    assert (none["local_blocks"], none["seeds"], one["local_blocks"], one["seeds"]) == (
        0,
        ["1"],
        1,
        ["1", "2"],
    )
    assert one["figures"]["win_rate"] == {"mean": 0.375, "low": 0.25, "high": 0.5}


def test_a_sweeps_folder_stands_for_its_runs_and_the_figure_is_drawn(tmp_path: Path) -> None:
    names = [("0", 0, "entropy"), ("1", 1, "entropy"), ("3", 3, "none")]
    runs = {name: record(tmp_path / name, k, codec).parent for name, k, codec in names}
    (tmp_path / "sweep").mkdir()
    write_index(tmp_path / "sweep", runs, {"2": "failed"})
    text = run("split.py", tmp_path / "sweep", "--plot", tmp_path / "p.png").stdout
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    for line in (
        "0 of 3  entropy",
        "1 of 3  entropy",
        "3 of 3  none",
        " 10.000 ",
        "measured, all of it",
    ):
        assert line in text
    assert "untrained" not in text
    assert "one process" not in text
    assert "energy of" not in text
    assert max(len(line) for line in text.splitlines()) <= 160
    assert len(json.loads(run("learning_curve.py", tmp_path / "sweep", "--json").stdout)) == 3


def test_what_the_figures_cant_be_taken_for_is_said(tmp_path: Path) -> None:
    path = record(tmp_path / "a", 1, steps=0, devices=(SAME, SAME))
    text = run("split.py", path).stdout
    assert "untrained policies are among them" in text
    assert "one process held server and devices" in text
    assert "energy of the devices: they share rank 0's host" in text
    figures = means(splits(path)[0])
    assert figures["device_cpu"] is figures["device_mj"] is None


def test_one_process_is_counted_once_and_the_devices_are_unknown(tmp_path: Path) -> None:
    path = record(tmp_path / "a", 1, devices=(SAME, SAME))
    with opened_to_change(path) as file:
        file["resources/cpu_s"][...] = 4.0 * file["resources/step"][...]  # 12 s in the end
    (report,) = json.loads(run("resource_consumption.py", path, "--json", "-").stdout)
    assert report["one_process"]
    assert [row["cpu_s"] for row in report["rows"]] == [12.0, None, None, 12.0]
    text = " ".join(run("resource_consumption.py", path).stdout.split())
    assert "all 1 host " in text
    assert "one process held server and devices: its CPU s stands at rank 0" in text
    given = ("energy_model.py", path, "--watts", "2")
    estimates = json.loads(run(*given, "--json", "-").stdout)
    assert [each["joules"] for each in estimates] == [24.0, None, None]
    assert "nan" not in run(*given).stdout
    (setup,) = json.loads(run("prototype.py", path, "--json").stdout)
    assert setup["device_cpu_us"] is None
    [processors, _memory] = efficiency(open_run(path), cores=12, memory_bytes=0)
    assert processors.startswith("processors: 0:00:12 used of 0:00:12 ")
    row = costs._rank(summarise(open_run(path), {}).rows[1])
    assert row[costs.RANKS.index("CPU us a decision")] == "-"


def test_energy_that_was_not_measured_is_absent_with_its_reason(tmp_path: Path) -> None:
    path = record(
        tmp_path / "a",
        1,
        joules=math.nan,
        devices=tuple(each | {"energy": "no sensor"} for each in EDGES),
    )
    [split] = splits(path)
    assert split["energy"] == ["energy of edge1, edge2: no sensor"]
    assert means(split)["device_mj"] is None


def test_what_is_no_run_and_no_sweep_is_one_line(tmp_path: Path) -> None:
    nothing = "there is no run.h5 in it, nor in any folder below it"
    assert run("split.py", tmp_path, code=2).stderr == f"split: {tmp_path}: {nothing}\n"
    for content in ("[]", '{"runs": 3}'):
        (tmp_path / "sweep.json").write_text(content)
        error = run("split.py", tmp_path, code=2).stderr
        assert error == f"split: {tmp_path}: sweep.json can't be read\n"


def test_a_run_without_decisions_or_configuration_is_one_line(tmp_path: Path) -> None:
    path = analysis_runs.record(tmp_path)
    assert "/meta config doesn't tell policy.blocks" in run("split.py", path, code=2).stderr
    RunFile(tmp_path / "b.h5", {"config": to_yaml(Config())}, "stop").close()
    assert "no decisions were recorded" in run("split.py", tmp_path / "b.h5", code=2).stderr
