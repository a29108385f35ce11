"""run.h5 under kills, full disks and wrong calls; checkpoints from strangers; metrics."""

from __future__ import annotations

import csv
import io
import os
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import kill_writer
import numpy as np
import pytest
import torch
from analysis_runs import opened_to_change
from launch import launch
from limits import wait_until

import sde_harl.record
from sde_harl.errors import UserError
from sde_harl.record import checkpoint
from sde_harl.record.disk import OrderedFile
from sde_harl.record.folder import make_run_folder
from sde_harl.record.metrics import Metrics
from sde_harl.record.reader import open_run
from sde_harl.record.schema import SCHEMA_VERSION, TABLES
from sde_harl.record.writer import RunFile

HERE = Path(__file__).parents[1] / "helpers"
META: dict[str, str | int | float] = {"env": "smax/3m", "seed": 3}


def make(folder: Path, on_disk_full: str = "stop") -> RunFile:
    return RunFile(folder / "run.h5", META, on_disk_full)


def test_tables_hold_what_was_added_with_units(tmp_path: Path) -> None:
    file = make(tmp_path)
    steps = np.array([1, 2])
    file.add("faults", step=steps, rank=[0, 1], agent=[-1, 2], kind=["crc", "späte Nachricht"])
    steps[:] = 9  # the file keeps its own copy
    file.add("training", step=5, loss=0.5)
    file.add("training", step=6, loss=0.25)
    file.close()
    assert file.failed is None
    with h5py.File(tmp_path / "run.h5") as run:
        assert dict(run["meta"].attrs) == {**META, "schema": SCHEMA_VERSION}
        assert run["faults/step"][:].tolist() == [1, 2]
        assert [text.decode() for text in run["faults/kind"][:]] == ["crc", "späte Nachricht"]
        assert run["training/loss"][:].tolist() == [0.5, 0.25]
        assert run["decisions/t_encode"].attrs["unit"] == "ns"
        assert set(run) == {*TABLES, "meta", "trajectories"}
        assert all("unit" in column.attrs for table in TABLES for column in run[table].values())


def test_more_rows_than_a_chunk(tmp_path: Path) -> None:
    file, rows = make(tmp_path), 10_000
    for start in (0, rows):
        numbers = np.arange(start, start + rows)
        file.add("resources", **{name: numbers for name in TABLES["resources"]})
    file.close()
    with h5py.File(tmp_path / "run.h5") as run:
        assert all((column[:] == np.arange(2 * rows)).all() for column in run["resources"].values())


@pytest.mark.parametrize(
    ("table", "columns", "message"),
    [
        ("nothing", {"step": 1}, "no table 'nothing'"),
        ("faults", {"step": 1, "rank": 1, "agent": 1, "sort": "x"}, "columns"),
        ("faults", {"step": 1, "rank": 1, "agent": 1}, "columns"),
        (
            "faults",
            {"step": [1, 2], "rank": 1, "agent": 1, "kind": "x"},
            r"columns of \[1, 2\] rows",
        ),
        ("faults", {"step": 1.5, "rank": 1, "agent": 1, "kind": "x"}, "faults.step: float64"),
        (
            "faults",
            {"step": [[1]], "rank": 1, "agent": 1, "kind": "x"},
            "faults.step: 2 dimensions",
        ),
    ],
)
def test_wrong_calls_raise_in_the_caller(
    tmp_path: Path, table: str, columns: dict[str, Any], message: str
) -> None:
    file = make(tmp_path)
    with pytest.raises(ValueError, match=message):
        file.add(table, **columns)
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.flush()()


def test_training_columns_stay(tmp_path: Path) -> None:
    file = make(tmp_path)
    file.add("training", **{"step": 1, "share/learn": 0.5, "loss": 1.0})
    file.add("training", step=2, loss=2.0)
    with pytest.raises(ValueError, match="training"):
        file.add("training", step=3, loss=1.0, other=1.0)
    file.close()
    with h5py.File(tmp_path / "run.h5") as run:
        assert set(run["training"]) == {"step", "share.learn", "loss"}
        np.testing.assert_equal(run["training/share.learn"][:], [0.5, np.nan])


def test_trajectories_in_minari_layout(tmp_path: Path) -> None:
    file = make(tmp_path)
    assert [file.trajectory(kill_writer.short_trajectory(seed)) for seed in (7, 8)] == [0, 1]
    bad = kill_writer.short_trajectory(1)._replace(rewards=np.zeros(4))
    with pytest.raises(ValueError, match="trajectory of 4"):
        file.trajectory(bad)
    file.close()
    with h5py.File(tmp_path / "run.h5") as run:
        episode = run["trajectories/episode_1"]
        assert dict(episode.attrs) == {"id": 1, "seed": 8, "total_steps": 3}
        assert episode["observations/a"].shape == (4, 5)
        assert episode["observations/a"][0, 0] == 8
        assert episode["actions/b"].shape == (3,)
        assert len(episode["infos"]) == 0
        assert episode["truncations"][:].tolist() == [False, False, True]
    run_file = open_run(tmp_path / "run.h5")
    written = kill_writer.short_trajectory(8)
    np.testing.assert_equal(run_file.trajectory(1)._asdict(), written._asdict())
    with pytest.raises(UserError, match="/trajectories/episode_2 can't be read"):
        run_file.trajectory(2)
    assert run_file.recorded_episodes() == 2


def test_a_frame_knows_its_units(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    file = make(tmp_path)
    file.add("faults", step=[1, 2], rank=[0, 1], agent=[-1, 2], kind=["crc", "späte Nachricht"])
    file.add("training", step=5, loss=0.5)
    file.close()
    run = sde_harl.record.open_run(str(tmp_path))
    frame = run.frame("faults")
    assert frame["kind"].tolist() == ["crc", "späte Nachricht"]
    assert frame["agent"].tolist() == [-1, 2]
    assert frame.attrs["units"]["step"] == "environment steps"
    assert run.frame("training").attrs["units"] == {"loss": "1", "step": "environment steps"}
    assert len(run.frame("roles")) == 0
    with pytest.raises(UserError, match="'nothing': no such table; there are: episodes"):
        run.frame("nothing")


def test_a_record_of_a_later_schema_is_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path).close()
    later = SCHEMA_VERSION + 1
    with opened_to_change(tmp_path / "run.h5") as file:
        file["meta"].attrs["schema"] = later
    expected = f"/meta schema: expected {SCHEMA_VERSION} or less, got {later}"
    with pytest.raises(UserError, match=expected):
        open_run(tmp_path / "run.h5")
    with opened_to_change(tmp_path / "run.h5") as file:
        del file["meta"].attrs["schema"]  # as in records of earlier versions
    assert open_run(tmp_path / "run.h5").seed == "3"


def test_episodes_are_on_disk_without_asking(tmp_path: Path) -> None:
    file = make(tmp_path)
    kill_writer.episode(file, 0, trajectories=False)

    def written() -> int:
        with h5py.File(tmp_path / "run.h5", locking=False) as run:
            return len(run["episodes/step"])

    wait_until(written, "an episode on disk")
    file.close()
    assert written() == 1


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "run.h5").write_text("precious")
    with pytest.raises(UserError, match=r"run.h5: can't be made"):
        make(tmp_path)
    assert (tmp_path / "run.h5").read_text() == "precious"


class Recorded(OrderedFile):
    """Notes each write, and each change of the size as a write of nothing."""

    last: Recorded

    def __init__(self, path: Path, *, superblock: int) -> None:
        self.operations: list[tuple[int, bytes | None]] = []
        Recorded.last = self
        super().__init__(path, superblock=superblock)

    def _put(self, address: int, data: bytes) -> None:
        self.operations.append((address, data))
        super()._put(address, data)

    def _resize(self, size: int) -> None:
        self.operations.append((size, None))
        super()._resize(size)


def test_every_prefix_of_the_writes_is_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between any two writes leaves tables that open with what was flushed.

    Chunks are so small here that they grow many times.
    """
    monkeypatch.setattr("sde_harl.record.store.OrderedFile", Recorded)
    monkeypatch.setattr("sde_harl.record.store.CHUNK_ROWS", 8)
    file = make(tmp_path)
    disk, promised = Recorded.last, []
    for number in range(20):
        promised.append((len(disk.operations), number))
        kill_writer.episode(file, number, trajectories=False)
        file.flush()()
    operations = list(disk.operations)
    file.close()
    copy = tmp_path / "copy.h5"
    with copy.open("wb", buffering=0) as prefix:
        for count, (address, data) in enumerate(operations, start=1):
            if data is None:
                os.ftruncate(prefix.fileno(), address)
            else:
                os.pwrite(prefix.fileno(), data, address)
            if count >= promised[0][0]:
                least = max(number for done, number in promised if done <= count)
                assert_rows(copy, least)


def assert_rows(path: Path, least: int) -> None:
    """Checks that every table can be read, with at least so many episodes of the right values."""
    with h5py.File(path, "r", locking=False) as run:
        columns = {name: column[:] for name, column in run["episodes"].items()}
        others = [column[:] for name in TABLES for column in run[name].values()]
    rows = min(len(values) for values in columns.values())
    assert rows >= least
    assert others
    assert (columns["step"][:rows] == np.arange(rows)).all()
    assert (columns["return"][:rows] == np.arange(rows) / 2).all()


def killed(path: Path, seed: int, *arguments: str) -> int:
    """Kills a writer at a random moment; returns the number of episodes it knew to be flushed."""
    command = [sys.executable, str(HERE / "kill_writer.py"), str(path), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=import_path()) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(random.Random(seed).uniform(0.0, 0.5))
        writer.kill()
        flushed = [int(line) for line in writer.stdout.read().split("\n")[:-1]]
    return flushed[-1] if flushed else 0


@pytest.mark.parametrize("seed", range(12))
def test_kill_nine(tmp_path: Path, seed: int) -> None:
    """The file opens with plain h5py, with every episode that was flushed."""
    assert_rows(tmp_path / "run.h5", killed(tmp_path / "run.h5", seed))


def test_kill_nine_while_recording_trajectories(tmp_path: Path) -> None:
    """Every table can be read each time.

    The list of trajectories has a few bad microseconds (disk.py): one miss is let pass, so that
    the test gives a false alarm less than once in 10,000 runs.
    """
    good, rounds = 0, 8
    for seed in range(rounds):
        path = tmp_path / f"run{seed}.h5"
        least = killed(path, seed, "trajectories")
        assert_rows(path, least)
        good += trajectories_are_whole(path, least)
    assert good >= rounds - 1


def trajectories_are_whole(path: Path, least: int) -> bool:
    with h5py.File(path) as run:
        try:
            lengths = {
                name: len(run["trajectories"][name]["rewards"]) for name in run["trajectories"]
            }
        except (OSError, RuntimeError, KeyError):
            return False
    return len(lengths) >= least and set(lengths.values()) <= {3}


def import_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE.parents[1])}


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import kill_writer
from sde_harl.errors import UserError
from sde_harl.record.writer import RunFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = RunFile(Path(sys.argv[2]), {"env": "x"}, sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
number = flushed = 0
try:
    while file.failed is None or number < flushed + 2000:
        kill_writer.episode(file, number, trajectories=True)
        if number % 20 == 0:
            file.flush()()
            if file.failed is None:
                flushed = number
        number += 1
    print("went on", flushed)
except UserError as error:
    print("stopped", flushed, error)
file.close()
print(file.failed)
"""


@pytest.mark.parametrize(("policy", "word"), [("stop", "stopped"), ("continue", "went on")])
def test_full_disk(tmp_path: Path, policy: str, word: str) -> None:
    """A limit on the file's size stands for a full disk.

    The write fails in the same place with another errno.
    """
    path = tmp_path / "run.h5"
    result = launch(1, "-c", FULL, str(HERE), str(path), policy)
    assert result.code == 0, result.err
    said = result.out.splitlines()
    assert said[0].startswith(word)
    assert said[1] == os.strerror(27)
    if policy == "stop":
        assert "run.h5: recording stopped: File too large" in said[0]
    assert result.err.count("recording ended") == 1
    assert "Traceback" not in result.err
    flushed = int(re.findall(r"\d+", said[0])[0])
    assert flushed > 20
    assert_rows(path, flushed + 1)
    with h5py.File(path) as run:
        assert len(set(run["trajectories"])) >= flushed + 1


def test_close_twice_and_after_failure(tmp_path: Path) -> None:
    file = make(tmp_path)
    file.close()
    file.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "run.h5"]


def test_run_folders_never_collide(tmp_path: Path) -> None:
    made = {
        make_run_folder(tmp_path, env="smax", task="3m", algo="happo", exp="test", seed=1)
        for _ in range(3)
    }
    assert len(made) == 3
    assert all(folder.is_dir() for folder in made)
    assert {folder.parent for folder in made} == {tmp_path / "smax/3m/happo/test"}
    assert all(re.fullmatch(r"seed-1-\d{8}-\d{6}(-\d)?", folder.name) for folder in made)


def test_run_folder_names_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "smax").write_text("a file")
    with pytest.raises(UserError, match="smax/3m"):
        make_run_folder(tmp_path, env="smax", task="3m", algo="happo", exp="test", seed=1)
    with pytest.raises(UserError, match=r"'../up'"):
        make_run_folder(tmp_path, env="mpe", task="spread", algo="happo", exp="../up", seed=1)


POLICY = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(4)}
STATE = {"policy": POLICY, "run": {"step": 5, "env": "smax/3m", "lr": 0.5}}


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, STATE)
    loaded = checkpoint.load(path)
    policy = loaded.take("policy", POLICY)
    assert policy.keys() == POLICY.keys()
    assert all(torch.equal(policy[name], POLICY[name]) for name in POLICY)
    assert loaded.take("run", STATE["run"]) == {"step": 5, "env": "smax/3m", "lr": 0.5}
    assert loaded.holds("run")
    assert not loaded.holds("critic")
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_a_checkpoint_keeps_states_inside_states(tmp_path: Path) -> None:
    state = {"optimizers": {"0": {"step": torch.tensor(3.0)}, "1": {"parameters": 2}}}
    checkpoint.save(tmp_path / "a.pt", {"algorithm": state})
    loaded = checkpoint.load(tmp_path / "a.pt")
    assert loaded.values.keys() == checkpoint.flatten({"algorithm": state}).keys()
    assert "algorithm/optimizers/0/step" in loaded.values
    assert loaded.take("algorithm", state) == state
    assert loaded.take("algorithm/optimizers/1", {"parameters": 0}) == {"parameters": 2}


def test_a_state_that_would_need_pickle_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="lr: a checkpoint can't hold a list"):
        checkpoint.save(tmp_path / "a.pt", {"optimizer": {"lr": [0.1]}})
    assert not list(tmp_path.iterdir())


def test_checkpoint_of_another_shape_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, STATE)
    loaded = checkpoint.load(path)
    only_w = {"w": POLICY["w"]}
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {**POLICY, "w": torch.zeros(3, 2)},
            r"a.pt: policy/w is float32 \(2, 3\) where float32 \(3, 2\) is needed",
        ),
        (
            {**POLICY, "b": torch.zeros(4, dtype=torch.int64)},
            r"a.pt: policy/b is float32 \(4,\) where int64 \(4,\) is needed",
        ),
        ({**POLICY, "more": torch.zeros(1)}, "a.pt: policy/more is missing"),
        ({**POLICY, "w": 1.0}, r"a.pt: policy/w is float32 \(2, 3\) where float is needed"),
        (only_w, "a.pt: policy/b has no place"),
    ]
    for expected, message in cases:
        with pytest.raises(UserError, match=message):
            loaded.take("policy", expected)
    assert loaded.take("policy", only_w, spare="b").keys() == {"w"}
    assert loaded.take("policy", POLICY, spare="b").keys() == {"w", "b"}
    with pytest.raises(UserError, match="policy/b has no place"):
        loaded.take("policy", only_w, spare="value")


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("with_torch", [True, False])
def test_a_strangers_pickle_runs_nothing(tmp_path: Path, with_torch: bool) -> None:
    path, mark = tmp_path / "evil.pt", tmp_path / "executed"
    evil = {"policy/w": Evil(str(mark))}
    if with_torch:
        torch.save(evil, path)
    else:
        path.write_bytes(pickle.dumps(evil))
    with pytest.raises(UserError, match=r"evil.pt"):
        checkpoint.load(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", "cut", "list", "odd", "sparse", "absent", "folder"]
)
def test_damaged_checkpoints_are_refused(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, STATE)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif content == "absent":
        path.unlink()
    elif content == "folder":
        path = tmp_path
    else:
        other = {
            "list": [1],
            "odd": {"policy/w": [1]},
            "sparse": {"policy/w": torch.eye(2).to_sparse()},
        }
        torch.save(other[content], path)
    with pytest.raises(UserError, match=str(path)):
        checkpoint.load(path)


def test_checkpoint_into_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.pt"):
        checkpoint.save(tmp_path / "absent" / "a.pt", STATE)


def test_metrics_plain(tmp_path: Path) -> None:
    stream = io.StringIO()
    metrics = Metrics(tmp_path, tensorboard=False, total_steps=1000, stream=stream)
    metrics.log(100, {"train/return_mean": 1.0})
    metrics.log(200, {"train/return_mean": 2.0, "loss": 0.5})
    metrics.log(300, {"eval/win_rate": 0.25, "eval/return_mean": float("nan")})
    metrics.note("one [plain] line")
    metrics.close()
    lines = stream.getvalue().splitlines()
    assert lines == [
        "100 of 1,000 steps · return 1.00",
        "evaluation at 300 steps · win rate 25.0%",
        "one [plain] line",
    ]
    assert [
        line.split(" ", 1)[1] for line in (tmp_path / "log.txt").read_text().splitlines()
    ] == lines
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["100", "200", "300"]
    assert [row["loss"] for row in rows] == ["", "0.5", ""]
    assert rows[2]["eval/win_rate"] == "0.25"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_metrics_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    metrics = Metrics(tmp_path, tensorboard=False, total_steps=1000, stream=stream)
    metrics.log(100, {"bits_per_element": 1.5})
    time.sleep(0.01)
    metrics.log(500, {"bytes_per_decision": 20.0})
    metrics.note("a note")
    metrics.close()
    text = stream.getvalue()
    assert "500 of 1,000 steps" in text
    assert "steps/s · ETA" in text
    assert "a note" in text
    assert "1.50 bits/element · 20.0 bytes/decision" in text


def test_metrics_survive_a_full_disk(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    stream = io.StringIO()
    metrics = Metrics(tmp_path, tensorboard=False, total_steps=1000, stream=stream)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30, limit[1]))
        metrics.log(100, {"a": 1.0})
        metrics.log(200, {"eval/win_rate": 1.0})
        metrics.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, old)
    text = stream.getvalue()
    assert text.count("end here: File too large") == 1
    assert "win rate 100.0%" in text


def test_metrics_tensorboard(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, tensorboard=True, total_steps=10, stream=io.StringIO())
    metrics.log(1, {"a": 1.0})
    metrics.close()
    assert any((tmp_path / "tensorboard").iterdir())


def test_metrics_in_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        Metrics(tmp_path / "absent", tensorboard=False, total_steps=10, stream=io.StringIO())
