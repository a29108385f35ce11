"""The programs in analysis/, run as a user runs them, on files that RunFile wrote."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from analysis_runs import META, opened_to_change, record, run
from filled import add

from sde_harl.analysis.comparison import align
from sde_harl.analysis.learning_curves import Curve
from sde_harl.record.writer import RunFile


def figures(path: Path) -> dict[str, dict[str, Any]]:
    reports = json.loads(run("resource_consumption.py", path, "--json", "-").stdout)
    return {row["rank"]: row for row in reports[0]["rows"]}


def test_figures(tmp_path: Path) -> None:
    rows = figures(record(tmp_path))
    assert list(rows) == ["0", "1", "2", "all"]
    assert [row["decisions"] for row in rows.values()] == [0, 400, 400, 800]
    assert [row["messages"] for row in rows.values()] == [0, 100, 100, 200]
    assert [row["cpu_s"] for row in rows.values()] == [5.0, 2.0, 3.0, 10.0]
    assert [row["alone"] for row in rows.values()] == [0, 0, 7, 7]
    assert [row["peak_bytes"] for row in rows.values()] == [1e7, 2e7, 3e7, 3e7]
    assert rows["1"]["host"] == "edge1"
    latency = rows["1"]["latency"]
    assert latency["local net"]["p50"] == pytest.approx(50.5)
    assert latency["local net"]["p99"] == pytest.approx(np.percentile(np.arange(1, 101), 99))
    assert latency["link"]["p95"] == pytest.approx(400)
    assert latency["whole"]["p50"] == pytest.approx(560.5)
    assert rows["2"]["latency"]["local net"]["unknown"] == 1
    assert rows["2"]["latency"]["whole"]["p50"] == pytest.approx(561)


def test_bytes(tmp_path: Path) -> None:
    size = figures(record(tmp_path))["all"]["bytes"]
    assert size == {
        "payload": 7.5,
        "ideal": 4.0,
        "wire": 15.5,
        "network": None,
        "float32": 64.0,
        "int8": 16.0,
        "observation": 80.0,
    }


def test_table_names_the_run(tmp_path: Path) -> None:
    text = run("resource_consumption.py", record(tmp_path)).stdout
    assert "smax/3m, happo, placement agents, hosts edge1, edge2, server" in text
    assert "with MPI/TCP headers: not measured (shared memory)" in text
    assert "decisions by exit heads while the server was silent: executor 2 7\n" in text
    assert "latent as float32: 64.0 bytes, 8.5 times the payload" in text
    assert "local net 1, whole 1 of 200" in text
    assert max(len(line) for line in text.splitlines()[1:]) <= 150


def test_csv_and_plot(tmp_path: Path) -> None:
    path = record(tmp_path / "a")
    run(
        "resource_consumption.py",
        path,
        record(tmp_path / "b"),
        "--csv",
        tmp_path / "f.csv",
        "--plot",
        tmp_path / "plots",
    )
    with (tmp_path / "f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert rows[3]["rank"] == "all"
    assert rows[3]["payload_bytes"] == "7.5"
    assert rows[3]["network_bytes"] == ""
    assert rows[0]["link_p50_us"] == ""
    pictures = list((tmp_path / "plots").iterdir())
    assert len(pictures) == 4
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_unknown_times_and_bits(tmp_path: Path) -> None:
    file = RunFile(tmp_path / "run.h5", META, "stop")
    names = ("t_local", "t_encode", "t_round_trip", "t_decode", "t_policy")
    times = {name: [0, -1] for name in names}
    add(
        file,
        "decisions",
        step=[1, 2],
        agent=[0, 9],
        rank=[0, 0],
        environments=[1, 1],
        payload_bytes=[8, 8],
        wire_bytes=[40, 40],
        ideal_bits=[-1.0, float("nan")],
        version=[1, 1],
        train=[True, True],
        **times,
    )
    file.close()
    row = figures(tmp_path / "run.h5")["all"]
    assert row["latency"]["whole"] == {"p50": None, "p95": None, "p99": None, "unknown": 2}
    assert row["bytes"]["ideal"] is None
    assert row["bytes"]["observation"] is None
    assert row["bytes"]["payload"] == 8.0
    assert "whole 2 of 2" in run("resource_consumption.py", tmp_path / "run.h5").stdout


def test_a_run_without_rows_says_so(tmp_path: Path) -> None:
    path = record(tmp_path, rows=False)
    assert (
        "no decisions and no resources were recorded" in run("resource_consumption.py", path).stdout
    )
    assert "no evaluations and no training values" in run("learning_curve.py", path).stdout
    run("resource_consumption.py", path, "--csv", tmp_path / "f.csv", "--plot", tmp_path / "plots")
    run("learning_curve.py", path, "--plot", tmp_path / "p.png")
    text = run("compare.py", path, "--plot", tmp_path / "p.png").stdout
    assert text == f"{path}: no evaluations were recorded in this run: left out\n"
    path = tmp_path / "int8" / "run.h5"
    text = run(
        "rate_return.py",
        record(tmp_path / "int8", False, codec="int8"),
        "--plot",
        tmp_path / "p.png",
    ).stdout
    assert text == f"{path}: no evaluations were recorded in this run: left out\n"


PROGRAMS = [
    "resource_consumption.py",
    "learning_curve.py",
    "compare.py",
    "prototype.py",
    "rate_return.py",
]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("content", [None, b"", b"text", "cut", "other", "headless"])
def test_bad_files_give_one_line(tmp_path: Path, program: str, content: bytes | str | None) -> None:
    good, path = record(tmp_path / "good"), tmp_path / "bad.h5"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "cut":
        path.write_bytes(good.read_bytes()[:30_000])
    elif content == "headless":
        path.write_bytes(b"\0" * 600 + good.read_bytes()[600:])
    elif content == "other":
        h5py.File(path, "w").close()
    result = run(program, good, path, code=2)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert str(path) in result.stderr


def test_uneven_columns_are_cut_to_the_shortest(tmp_path: Path) -> None:
    path = record(tmp_path)
    with opened_to_change(path) as file:
        file["decisions/t_policy"].resize((150,))
    assert figures(path)["all"]["messages"] == 150


def test_curves_are_grouped(tmp_path: Path) -> None:
    paths = [
        record(tmp_path / exp / f"seed-{k}", seed=k, win_rate=w)
        for exp, k, w in (("one", 1, 0.5), ("one", 2, 1.0), ("two", 1, 0.25))
    ]
    text = run("learning_curve.py", *paths, "--plot", tmp_path / "p.png").stdout
    assert "0.750 (0.500 to 1.000)" in text
    assert "smax/3m/happo/two" in text
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    curves = json.loads(run("learning_curve.py", *paths, "--json").stdout)
    assert [(c["exp"], c["seed"]) for c in curves] == [("one", "1"), ("one", "2"), ("two", "1")]
    assert curves[1]["steps"] == [100, 200]
    assert curves[1]["values"] == [0.5, 1.0]
    assert curves[1]["source"] == "evaluations"
    assert curves[1]["measure"] == "win rate"


def test_return_where_nothing_is_won_and_training_without_evaluations(tmp_path: Path) -> None:
    lost = record(tmp_path / "a" / "b", win_rate=float("nan"))
    file = RunFile(tmp_path / "run.h5", META, "stop")
    file.add("training", step=7, return_mean=-2.0, loss=1.0)
    file.close()
    curves = json.loads(run("learning_curve.py", lost, tmp_path / "run.h5", "--json").stdout)
    assert [(c["source"], c["measure"], c["values"]) for c in curves] == [
        ("evaluations", "return", [10.0, 20.0]),
        ("training", "return", [-2.0]),
    ]


def played(
    folder: Path,
    algo: str,
    seed: int,
    values: dict[int, float],
    speeds: tuple[float, ...] = (),
    exp: str = "main",
) -> Path:
    """Writes a run of mpe/spread from the returns of its evaluations and its updates' speeds."""
    folder = folder / algo / exp / f"seed-{seed}"
    folder.mkdir(parents=True)
    file = RunFile(
        folder / "run.h5", {**META, "env": "mpe/spread", "algo": algo, "seed": seed}, "stop"
    )
    for number, speed in enumerate(speeds):
        file.add("training", step=number, steps_per_s=speed, return_mean=0.0)
    for step, value in values.items():
        add(
            file,
            "evaluations",
            step=step,
            episodes=8,
            win_rate=float("nan"),
            return_mean=value,
            return_std=1.0,
            length_mean=20.0,
            bits_per_element=1.0,
            bytes_per_decision=5.0,
        )
    file.close()
    return folder / "run.h5"


def test_algorithms_are_compared_over_their_seeds(tmp_path: Path) -> None:
    paths = [
        played(tmp_path, "mappo", 2, {100: -9.0, 200: -6.0}, (1000.0, 3000.0)),
        played(tmp_path, "happo", 2, {100: -2.0, 200: -4.0}, (500.0,)),
        played(tmp_path, "happo", 1, {100: -8.0, 200: -3.0, 300: -5.0}),
        record(tmp_path / "smax" / "x"),
    ]
    text = run("compare.py", *paths, "--plot", tmp_path / "p.png").stdout
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "mpe/spread, return" in text
    assert "smax/3m, win rate" in text
    happo, mappo, won = json.loads(run("compare.py", *paths, "--json").stdout)
    assert (happo["task"], happo["algo"], happo["seeds"]) == ("mpe/spread", "happo", ["1", "2"])
    assert happo["steps"] == {"mean": 250.0, "low": 200.0, "high": 300.0}
    assert happo["final"] == {"mean": -4.5, "low": -5.0, "high": -4.0}
    assert happo["final_iqm"] == {"mean": -4.5, "low": -5.0, "high": -4.0}, "two seeds, resampled"
    assert mappo["final_iqm"] == {"mean": -6.0, "low": None, "high": None}, "one can't be"
    assert happo["best"] == {"mean": -2.5, "low": -3.0, "high": -2.0}
    assert happo["steps_per_s"]["mean"] == 500.0
    assert mappo["steps_per_s"]["mean"] == pytest.approx(1500)
    assert (mappo["algo"], mappo["final"]["mean"]) == ("mappo", -6.0), "the better one comes first"
    assert (won["measure"], won["final"]["mean"], won["steps_per_s"]["mean"]) == (
        "win rate",
        0.5,
        None,
    )


def test_a_comparison_parts_experiments_and_tells_what_is_missing(tmp_path: Path) -> None:
    one, other = (
        played(tmp_path, "happo", 1, {100: value}, exp=exp)
        for exp, value in (("one", -2.0), ("two", -1.0))
    )
    empty = played(tmp_path, "ippo", 1, {}, (100.0,))
    rows = json.loads(run("compare.py", one, other, empty, "--json").stdout)
    assert [(row["name"], row["final"]["mean"]) for row in rows] == [
        ("happo, two", -1.0),
        ("happo, one", -2.0),
    ]
    text = run("compare.py", one, other, empty).stdout
    assert "ippo" not in text.partition(str(empty))[0]
    assert f"{empty}: no evaluations" in text


def test_another_programs_curves_are_set_beside_the_runs(tmp_path: Path) -> None:
    path, csv_file = played(tmp_path, "happo", 1, {100: -2.0}), tmp_path / "harl.csv"
    lines = [
        "env,algo,seed,step,return",
        "mpe/spread,theirs,1,200,-4.5",
        "mpe/spread,theirs,1,100,-9",
    ]
    csv_file.write_text(
        "\n".join([*lines, "mpe/spread,theirs,2,200,-5.5", "mpe/other,theirs,1,200,0"])
    )
    rows = json.loads(
        run(
            "compare.py", path, "--reference", csv_file, "--plot", tmp_path / "p.png", "--json"
        ).stdout
    )
    assert [(row["task"], row["algo"]) for row in rows] == [
        ("mpe/spread", "happo"),
        ("mpe/spread", "theirs"),
    ]
    assert rows[1]["seeds"] == ["1", "2"]
    assert rows[1]["final"] == {
        "mean": -5.0,
        "low": -5.5,
        "high": -4.5,
    }
    assert rows[1]["best"]["low"] == -5.5
    assert rows[1]["steps_per_s"]["mean"] is None


def test_references_alone_are_all_shown(tmp_path: Path) -> None:
    files = [tmp_path / "harl.csv", tmp_path / "older.csv"]
    for file, algo in zip(files, ("theirs", "ours")):
        file.write_text(f"env,algo,seed,step,return\nmpe/spread,{algo},1,200,-4.5\n")
    words = [word for file in files for word in ("--reference", file)]
    rows = json.loads(run("compare.py", *words, "--json").stdout)
    assert sorted(row["algo"] for row in rows) == ["ours", "theirs"]
    twice = run("compare.py", *words, *words[:2], "--json")
    assert json.loads(twice.stdout) == rows
    files[1].write_text(files[0].read_text())
    assert f"is in {files[0]} too" in run("compare.py", *words, code=2).stderr
    assert "name a run, or a --reference FILE.csv" in run("compare.py", code=2).stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("step,return\n1,2\n", "its first line must be env,algo,seed,step,return"),
        ("env,algo,seed,step,return\na,b,1,1,x\n", "line 2: step and return must be numbers"),
        ("env,algo,seed,step,return\na,b,1,1\n", "line 2: step and return must be numbers"),
        ("env,algo,seed,step,return\na,b, c,1,1,1\n", "line 2: more than 5 columns"),
        (
            f"env,algo,seed,step,return\na,b,1,{2**53},1\n",
            "line 2: step must be 0 or more, and return finite",
        ),
        (
            "env,algo,seed,step,return\na,b,1,1,nan\n",
            "line 2: step must be 0 or more, and return finite",
        ),
        ("\0\xff", "not a CSV file"),
    ],
)
def test_a_reference_that_is_none_is_told_in_one_line(
    text: str, reason: str, tmp_path: Path
) -> None:
    csv_file = tmp_path / "harl.csv"
    csv_file.write_bytes(text.encode("latin1"))
    done = run(
        "compare.py", played(tmp_path, "happo", 1, {100: -2.0}), "--reference", csv_file, code=2
    )
    assert done.stderr.startswith(f"compare: {csv_file}: ")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_curves_of_unlike_steps_are_laid_together() -> None:
    curves = [
        Curve(
            path="",
            env="",
            algo="",
            exp="",
            seed="",
            source="",
            measure="",
            steps=steps,
            values=values,
        )
        for steps, values in (([100, 300], [0.0, 2.0]), ([0, 200, 400], [4.0, 4.0, 6.0]))
    ]
    steps, values = align(curves)
    assert steps.tolist() == [100, 200, 300]
    assert values.tolist() == [[0.0, 1.0, 2.0], [4.0, 4.0, 5.0]]


START_UNIX_S = 1767225600  # META's "started"


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """Writes 4,000 decisions of edge1's agent in 2 s and 10 J, of which 1 W is idle.

    The server has no sensor.
    """
    hosts = [
        {"host": "server", "energy": "not measurable here: no RAPL"},
        {"host": "edge1", "energy": "INA3221"},
    ]
    file = RunFile(tmp_path / "run.h5", {**META, "hosts": json.dumps(hosts)}, "stop")
    times = dict.fromkeys(("t_local", "t_encode", "t_round_trip", "t_decode", "t_policy"), 1)
    size = {
        "payload_bytes": 4,
        "wire_bytes": 36,
        "ideal_bits": 30.0,
        "version": 1,
        "train": True,
        "agent": 0,
    }
    for step in (0, 10, 20):  # the first and the last lie outside of what the sensor saw
        add(file, "decisions", step=step, rank=1, environments=4000, **size, **times)
    used = {
        "cpu_s": 4.0,
        "rss_bytes": 1,
        "peak_rss_bytes": 1,
        "gpu_joules": np.nan,
        "gpu_idle_w": np.nan,
    }
    for step, time_s, joules in ((5, 1.0, 100.0), (20, 3.0, 110.0)):
        for rank, mine, idle in ((0, np.nan, np.nan), (1, joules, 1.0)):
            add(
                file,
                "resources",
                rank=rank,
                step=step,
                time_s=time_s,
                joules=mine,
                idle_w=idle,
                **used,
            )
    file.close()
    return tmp_path / "run.h5"


RESOURCES, MODEL = "resource_consumption.py", "energy_model.py"


def test_joules_of_a_decision_with_and_without_idle(measured: Path) -> None:
    (item,) = json.loads(run(RESOURCES, measured, "--json", "-").stdout)
    by_host = {each["host"]: each for each in item["energy"] if each["sensor"] != "not recorded"}
    assert by_host["server"]["joules"] is None
    edge = by_host["edge1"]
    assert (edge["window_s"], edge["decisions"], edge["joules"]) == (2.0, 4000, 10.0)
    assert edge["joules_per_decision"] == pytest.approx(10 / 4000)
    assert edge["joules_per_decision_without_idle"] == pytest.approx(8 / 4000)
    text = " ".join(run(RESOURCES, measured).stdout.split())
    assert (
        "energy of edge1 (INA3221): 10.0 J in 2.0 s, 2.500 mJ a decision,"
        " 2.000 mJ without idle (1.00 W)" in text
    )
    assert "energy of server: not measurable here: no RAPL" in text


def test_an_external_meter_is_integrated_over_the_run(measured: Path, tmp_path: Path) -> None:
    csv_file = tmp_path / "meter.csv"
    csv_file.write_text(
        "unix_s,watts\n" + "".join(f"{START_UNIX_S + second},{second}\n" for second in range(5))
    )
    arguments = (measured, "--meter", f"server={csv_file}", "--json", "-")
    (item,) = json.loads(run(RESOURCES, *arguments).stdout)
    (meter,) = [each for each in item["energy"] if "external" in each["sensor"]]
    assert meter["joules"] == pytest.approx(4.0)  # of watts that rise from 1 at 1 s to 3 at 3 s
    csv_file.write_text("unix_s,power\n1,2\n")
    assert "meter.csv: not a meter's CSV" in run(RESOURCES, *arguments, code=2).stderr
    assert (
        "its hosts are edge1, server"
        in run(RESOURCES, measured, "--meter", f"pi={csv_file}", code=2).stderr
    )


def test_the_energy_model_says_that_it_estimates(measured: Path) -> None:
    given = (MODEL, measured, "--watts", "2", "--watts", "edge1=0.5")
    _, edge = json.loads(run(*given, "--json", "-").stdout)
    assert (edge["joules"], edge["joules_per_decision"]) == (2.0, pytest.approx(2.0 / 12_000))
    assert "ESTIMATE" in run(*given).stdout
    assert (
        "no --watts for its host server"
        in run(MODEL, measured, "--watts", "edge1=0.5", code=2).stderr
    )
