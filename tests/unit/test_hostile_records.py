"""run.h5 from strangers and from broken disks: read, or refused in one line that names the file."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import odd_records
import pytest
from analysis_runs import ANALYSIS, META, add_decisions
from filled import add, add_symbols
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import kinds_vector
from limits import hang_limit_s
from mutations import mutated
from odd_records import ATTRIBUTES, COLUMNS, OF_COLUMNS, make_pipe, set_attribute

from sde_harl.cli import estimate, export, report
from sde_harl.cli.trials import result
from sde_harl.config.layers import to_yaml
from sde_harl.config.schema import Config, RolesConfig
from sde_harl.errors import UserError
from sde_harl.record.finding import run_files
from sde_harl.record.reader import open_run
from sde_harl.record.schema import TABLES
from sde_harl.record.seal import SEAL_BYTES, seal
from sde_harl.record.writer import RunFile
from sde_harl.roles.grouping import find_roles

PROGRAMS = (
    "resource_consumption",
    "learning_curve",
    "compare",
    "prototype",
    "rate_return",
    "roles",
    "split",
    "energy_model",
)
OPTIONS = {"energy_model": ["--watts", "5"]}
AGENTS = ["agent_0", "agent_1"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a record with rows in every table, small enough that changes hit something."""
    folder = tmp_path_factory.mktemp("good")
    meta = {
        **META,
        "config": to_yaml(Config()),
        "agents": json.dumps(AGENTS),
        "groups": "[[0], [1]]",
        "unit_types": '["a", ""]',
        "roles_source": "learnt",
        "obs_dtype": "float32",
        "emulated": "",
    }
    path = folder / "run.h5"
    file = RunFile(path, meta, "stop")
    add_decisions(file)
    for step in (0, 100):
        for rank in (0, 1, 2):
            counted = {"carried_sent_bytes": 9 * step, "sent_bytes": step, "sent": step}
            add(file, "resources", rank=rank, step=step, time_s=step, cpu_s=1.0 + step, joules=step)
            add(file, "traffic", rank=rank, step=step, **counted)
        add(file, "evaluations", step=step, episodes=8, win_rate=0.5, return_mean=1.0)
        add_symbols(file, step)
        add(file, "decisions", step=step, train=False, environments=4, payload_bytes=8, rank=1)
        file.add("training", step=step, return_mean=-2.0, steps_per_s=100.0)
        add(file, "episodes", step=step, train=True)
        add(file, "faults", step=step, kind="size")
        add(file, "role_scores", groups=1 + step // 100, index=0.5)
    for agent in (0, 1):
        for half in (0, 1):
            add(file, "roles", agent=agent, half=half, mu_0=agent, sigma_0=1.0)
    file.close()
    assert file.failed is None
    return _in_small_chunks(path)


def _in_small_chunks(path: Path) -> Path:
    """Returns a copy without the room that a run leaves for rows to come, and without a seal.

    So what changes it meets the reader's checks, as in the record of a run that was killed.
    """
    small = path.with_name("small.h5")
    with h5py.File(path) as old, h5py.File(small, "w") as new:
        old.visititems(lambda name, found: _copy(new, name, found))
        for name, value in old["meta"].attrs.items():
            new["meta"].attrs[name] = value
    return small


def _copy(new: h5py.File, name: str, found: h5py.Group | h5py.Dataset) -> None:
    if isinstance(found, h5py.Group):
        new.create_group(name)
    else:
        rows = max(1, len(found))
        new.create_dataset(name, data=found[:], chunks=(rows,), maxshape=(None,))


def main_of(program: str) -> Callable[[], int]:
    spec = importlib.util.spec_from_file_location(program, ANALYSIS / f"{program}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[], int] = module.main
    return main


MAINS = {program: main_of(program) for program in PROGRAMS}


def read_by_all(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, int]:
    """Has every reader read a record, in this process; returns their exit codes.

    Fails the test for an exception, and for a refusal that isn't one line with the file's name.
    """
    codes: dict[str, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for program, main in MAINS.items():
            monkeypatch.setattr(
                sys, "argv", [f"{program}.py", str(path), *OPTIONS.get(program, [])]
            )
            codes[program] = main()
            said = capsys.readouterr()
            if codes[program]:
                assert codes[program] == 2
                assert said.out == ""
                errors = [line for line in said.err.splitlines() if ": emulated: " not in line]
                assert len(errors) == 1, said.err
                assert str(path) in errors[0]
        codes["estimate"] = _code_of(path, lambda: estimate.main(_estimate_words(path)))
        codes["sweep"] = _code_of(path, lambda: result(path.parent))
        codes["roles.from"] = _code_of(path, lambda: _roles_of(path))
        capsys.readouterr()
    return codes


def _estimate_words(path: Path) -> list[str]:
    return ["--measured", str(path), "--rate-mbit", "72", "--rtt-ms", "4"]


def _roles_of(path: Path) -> object:
    config = Config(roles=RolesConfig(from_=str(path)))
    return find_roles(config, [kinds_vector((0, 1), 1)])


def _code_of(path: Path, read: Callable[[], object]) -> int:
    try:
        read()
    except UserError as error:
        line = str(error)
    else:
        return 0
    assert str(path) in line
    return 2


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    make_pipe(tmp_path)
    return Path(shutil.copy(good, tmp_path / "run.h5"))


Capsys = pytest.CaptureFixture[str]
Monkey = pytest.MonkeyPatch


def test_a_good_record_is_read_by_all(copy: Path, capsys: Capsys, monkeypatch: Monkey) -> None:
    assert set(read_by_all(copy, capsys, monkeypatch).values()) == {0}


REFUSED_BY_ALL = ("no_meta", "meta_is_a_column")
ODD = {each.__name__: each for each in OF_COLUMNS}
HARMLESS = ("extremes", "zeros", "not_numbers")


@pytest.mark.parametrize("name", ODD)
def test_an_odd_column_is_refused_in_one_line(
    name: str, copy: Path, capsys: Capsys, monkeypatch: Monkey
) -> None:
    with h5py.File(copy, "r+") as file:
        ODD[name](file, "decisions/t_local")
    codes = read_by_all(copy, capsys, monkeypatch)
    if name not in HARMLESS:
        assert codes["resource_consumption"] == codes["split"] == codes["estimate"] == 2
        assert codes["compare"] == (2 if name in REFUSED_BY_ALL else 0)


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS)
def test_every_odd_column(
    column: str, good: Path, tmp_path: Path, capsys: Capsys, monkeypatch: Monkey
) -> None:
    make_pipe(tmp_path)
    for change in OF_COLUMNS:
        path = Path(shutil.copy(good, tmp_path / "run.h5"))
        with h5py.File(path, "r+") as file:
            change(file, column)
        read_by_all(path, capsys, monkeypatch)


def reported(path: Path, capsys: Capsys) -> int:
    """Writes a report of a record; returns the exit code, of a refusal in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = _code_of(path, lambda: report.main([str(path), "--out", f"{path}.html"]))
    capsys.readouterr()
    return code


def exported(path: Path, capsys: Capsys) -> list[int]:
    """Exports a record in each format; returns the exit codes, of refusals in one line."""
    codes = []
    for option in ("--csv", "--marl-eval", "--minari", "--trace"):
        with tempfile.TemporaryDirectory() as folder:
            words = [str(path), option, f"{folder}/out"]
            codes.append(_code_of(path, partial(export.main, words)))
            assert len(list(Path(folder).iterdir())) == (not codes[-1])
    capsys.readouterr()
    return codes


@pytest.mark.parametrize("name", HARMLESS)
def test_odd_values_are_exported_or_refused(name: str, copy: Path, capsys: Capsys) -> None:
    assert exported(copy, capsys) == [0, 0, 2, 0]  # no episodes were recorded
    with h5py.File(copy, "r+") as file:
        for column in ("agent", "rank", "t_decision", "t_local", "t_round_trip"):
            ODD[name](file, f"decisions/{column}")
        ODD[name](file, "evaluations/return_mean")
    exported(copy, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS)
def test_an_export_of_every_odd_column(
    column: str, good: Path, tmp_path: Path, capsys: Capsys
) -> None:
    make_pipe(tmp_path)
    for change in OF_COLUMNS:
        path = Path(shutil.copy(good, tmp_path / "run.h5"))
        with h5py.File(path, "r+") as file:
            change(file, column)
        exported(path, capsys)


def test_odd_values_are_reported_or_refused(copy: Path, capsys: Capsys) -> None:
    assert reported(copy, capsys) == 0
    with h5py.File(copy, "r+") as file:
        odd_records.not_numbers(file, "evaluations/win_rate")
        odd_records.zeros(file, "decisions/environments")
        odd_records.extremes(file, "resources/time_s")
    reported(copy, capsys)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("probability", float("nan"), "a probability that is none"),
        ("probability", -0.25, "a probability that is none"),
        ("probability", 1e30, "a probability that is none"),
        ("probability", 0.5, "probabilities that don't add up to 1"),
        ("symbol", 1 << 30, "others than -16 to 16"),
        ("symbol", -17, "symbol holds -17, below -16"),
        ("sent", -1, "sent holds -1, below 0"),
    ],
)
def test_symbols_that_are_none_are_refused(
    column: str, value: float, message: str, copy: Path
) -> None:
    with h5py.File(copy, "r+") as file:
        file[f"symbols/{column}"][40] = value
    with pytest.raises(UserError, match=message):
        report.main([str(copy), "--out", f"{copy}.html"])


def test_counts_of_any_size_are_drawn(copy: Path, capsys: Capsys) -> None:
    with h5py.File(copy, "r+") as file:
        file["symbols/sent"][:] = (1 << 63) - 1
        file["symbols/step"][:] = (1 << 63) - 1
    assert reported(copy, capsys) == 0


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS)
def test_a_report_of_every_odd_value(
    column: str, good: Path, tmp_path: Path, capsys: Capsys
) -> None:
    for name in HARMLESS:
        path = Path(shutil.copy(good, tmp_path / "run.h5"))
        with h5py.File(path, "r+") as file:
            ODD[name](file, column)
        reported(path, capsys)


@pytest.mark.slow
def test_a_report_of_odd_attributes(copy: Path, capsys: Capsys) -> None:
    original = copy.read_bytes()
    with h5py.File(copy) as file:
        names = list(file["meta"].attrs)
    for name in names:
        for value in random.Random(name).sample(ATTRIBUTES, 6):
            copy.write_bytes(original)
            with h5py.File(copy, "r+") as file:
                set_attribute(file, name, value)
            reported(copy, capsys)


@pytest.mark.parametrize("name", ["config", "hosts", "groups", "latent", "obs_sizes"])
def test_odd_attributes_are_read_or_refused(
    name: str, copy: Path, capsys: Capsys, monkeypatch: Monkey
) -> None:
    for value in random.Random(name).sample(ATTRIBUTES, 2):
        with h5py.File(copy, "r+") as file:
            set_attribute(file, name, value)
        read_by_all(copy, capsys, monkeypatch)


@pytest.mark.slow
def test_every_odd_attribute(copy: Path, capsys: Capsys, monkeypatch: Monkey) -> None:
    original = copy.read_bytes()
    with h5py.File(copy) as file:
        names = list(file["meta"].attrs)
    for name in names:
        for value in ATTRIBUTES:
            copy.write_bytes(original)
            with h5py.File(copy, "r+") as file:
                set_attribute(file, name, value)
            read_by_all(copy, capsys, monkeypatch)


def test_a_text_of_aliases_is_refused_at_once(
    copy: Path, capsys: Capsys, monkeypatch: Monkey
) -> None:
    with h5py.File(copy, "r+") as file:
        set_attribute(file, "config", odd_records.BOMB)
    codes = read_by_all(copy, capsys, monkeypatch)
    assert codes["split"] == codes["estimate"] == 2


def test_a_pipe_is_no_record(tmp_path: Path, capsys: Capsys, monkeypatch: Monkey) -> None:
    make_pipe(tmp_path)
    with pytest.raises(UserError, match=r"pipe: not a file"):
        open_run(tmp_path / odd_records.PIPE)


@pytest.mark.parametrize(
    "index",
    [
        '{"runs": {"a": 1}}',
        '{"runs": ["a"]}',
        '{"runs": {"a": "b\\u001b"}}',
        '{"runs": {}, "runs": {"a": "b"}}',
        "[" * 50_000,
        "\ud800",
    ],
)
def test_an_odd_index_of_a_sweep_is_one_line(tmp_path: Path, index: str) -> None:
    (tmp_path / "sweep.json").write_text(index, errors="surrogatepass")
    with pytest.raises(UserError, match=rf"^{tmp_path}: "):
        run_files(tmp_path)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_record_is_read_or_refused(good: Path, seed: int) -> None:
    path = good.with_name("damaged.h5")
    path.write_bytes(mutated(good.read_bytes(), random.Random(seed)))
    _code_of(path, lambda: [open_run(path).table(name) for name in ("decisions", "training")])


@pytest.fixture(scope="module")
def sealed(good: Path) -> Path:
    """Writes the good record as one that its run has closed."""
    path = good.with_name("sealed.h5")
    with h5py.File(good) as old, h5py.File(path, "w", userblock_size=SEAL_BYTES) as new:
        for name in old:
            old.copy(name, new)
    seal(path)
    return path


def tables(path: Path) -> dict[str, dict[str, bytes]]:
    """Returns all columns of a record."""
    run = open_run(path)
    return {
        name: {key: values.tobytes() for key, values in run.table(name).items()} for name in TABLES
    }


def check_no_silent_difference(sealed: Path, changed: Path, chance: random.Random) -> None:
    """Checks that a record with a few changed bytes is refused, or read as it was."""
    changed.write_bytes(mutated(sealed.read_bytes(), chance))
    read: list[object] = []
    if _code_of(changed, lambda: read.append(tables(changed))) == 0:
        assert read == [tables(sealed)]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_changed_record_never_passes_for_the_runs(sealed: Path, seed: int) -> None:
    check_no_silent_difference(sealed, sealed.with_name("changed.h5"), random.Random(seed))


@pytest.mark.slow
@pytest.mark.timeout(hang_limit_s(7200))
def test_2000_changed_records_never_pass_for_the_runs(sealed: Path, tmp_path: Path) -> None:
    for seed in range(2000):
        check_no_silent_difference(sealed, tmp_path / "run.h5", random.Random(seed))


def test_one_changed_value_is_refused(sealed: Path, tmp_path: Path) -> None:
    """A value within its range that is changed as an editor of HDF5 would."""
    path = Path(shutil.copy(sealed, tmp_path / "run.h5"))
    with h5py.File(path, "r+") as file:
        file["evaluations/win_rate"][0] = 1.0
    with pytest.raises(UserError, match=r"run.h5: damaged, .* changed after its run had ended"):
        open_run(path)


@pytest.mark.slow
@pytest.mark.timeout(hang_limit_s(7200))
def test_2000_damaged_records(
    good: Path, tmp_path: Path, capsys: Capsys, monkeypatch: Monkey
) -> None:
    content = good.read_bytes()
    for seed in range(2000):
        path = tmp_path / "run.h5"
        path.write_bytes(mutated(content, random.Random(seed)))
        read_by_all(path, capsys, monkeypatch)


def test_a_heap_without_end_is_not_walked(copy: Path) -> None:
    """A free object of size 0 in the heap of the attributes' texts: HDF5 itself never gets on."""
    content = bytearray(copy.read_bytes())
    first = content.index(b"GCOL\1\0\0\0") + 16
    content[first : first + 16] = bytes(16)
    copy.write_bytes(content)
    with pytest.raises(UserError, match=r"run.h5: damaged, .* a heap of texts has no end"):
        open_run(copy)
