"""Checkpoints from strangers and from broken disks: loaded as they were saved, or refused."""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutated
from safetensors.torch import save as to_safetensors
from states import differing

from sde_harl.errors import UserError
from sde_harl.record import checkpoint

STATE = {
    "policy": {"w": torch.linspace(-1, 1, 60).reshape(6, 10), "scale": torch.tensor(0.5)},
    "algorithm": {"step": torch.tensor(7), "mask": torch.tensor([True, False])},
    "run": {"steps": 5, "env": "smax/3m", "lr": 0.5, "done": False},
}
REFUSED = r"^not a checkpoint of ours: {path}: ."


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "last.pt"
    checkpoint.save(path, STATE)
    return path


def is_as_saved(found: checkpoint.Checkpoint) -> bool:
    """Returns whether all names, types, shapes and values are those of STATE."""
    return not differing(found.values, STATE)


def loads_as_saved_or_is_refused(path: Path) -> None:
    try:
        found = checkpoint.load(path)
    except UserError as error:
        line = str(error)
    else:
        assert is_as_saved(found)
        return
    assert re.match(REFUSED.format(path=re.escape(str(path))), line)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_checkpoint_is_refused(good: Path, seed: int) -> None:
    path = good.with_name("damaged.pt")
    path.write_bytes(mutated(good.read_bytes(), random.Random(seed)))
    loads_as_saved_or_is_refused(path)


@pytest.mark.slow
def test_5000_damaged_checkpoints(good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    for seed in range(5000):
        path = tmp_path / "damaged.pt"
        path.write_bytes(mutated(content, random.Random(seed)))
        loads_as_saved_or_is_refused(path)


def write(path: Path, tensors: dict[str, torch.Tensor], values: str = "{}", **more: str) -> None:
    """Writes what a stranger could: any contents under a digest that fits them."""
    metadata = {"format": checkpoint.FORMAT, "values": values}
    metadata["sha256"] = checkpoint._digest(tensors, values)
    path.write_bytes(to_safetensors(tensors, {**metadata, **more}))


W = torch.zeros(3)
STRANGE: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "half precision": ({"w": W.half()}, "{}"),
    "complex": ({"w": torch.zeros(3, dtype=torch.complex64)}, "{}"),
    "nan": ({"w": W.log() - W.log()}, "{}"),
    "infinite": ({"w": W.log()}, "{}"),
    "no json": ({"w": W}, "{"),
    "a list": ({"w": W}, "[1]"),
    "a nested map": ({"w": W}, '{"a": {"b": 1}}'),
    "null": ({"w": W}, '{"a": null}'),
    "not a number": ({"w": W}, '{"a": NaN}'),
    "endless": ({"w": W}, '{"a": 1e999}'),
    "a name twice": ({"w": W}, '{"a": 1, "a": 2}'),
    "a tensor's name": ({"w": W}, '{"w": 1}'),
    "deep": ({"w": W}, "[" * 100_000),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_no_run_saves_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "strange.pt"
    write(path, {"w": W}, '{"a": 1}')
    assert checkpoint.load(path).values.keys() == {"w", "a"}
    write(path, *STRANGE[name])
    with pytest.raises(UserError, match=REFUSED.format(path=path)):
        checkpoint.load(path)


@pytest.mark.parametrize("more", [{"format": "other"}, {"extra": "x"}, {"sha256": "0" * 64}])
def test_other_metadata_are_refused(tmp_path: Path, more: dict[str, str]) -> None:
    write(tmp_path / "strange.pt", {"w": W}, **more)
    with pytest.raises(UserError, match=r"^not a checkpoint of ours: "):
        checkpoint.load(tmp_path / "strange.pt")


def test_weights_of_another_type_do_not_pass(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    checkpoint.save(path, {"policy": {"w": torch.zeros(3, dtype=torch.int64), "n": 1.0}})
    found = checkpoint.load(path)
    with pytest.raises(UserError, match=r"policy/w is int64 \(3,\) where float32 \(3,\)"):
        found.take("policy", {"w": W, "n": 1.0})
    with pytest.raises(UserError, match=r"policy/n is float where int is needed"):
        found.take("policy", {"w": torch.zeros(3, dtype=torch.int64), "n": 1})


TORCH: dict[str, Any] = {
    "plain": {"policy/w": torch.zeros(3)},
    "meta": {"policy/w": torch.zeros(1 << 40, device="meta")},
    "expanded": {"policy/w": torch.zeros(1).expand(1 << 40)},
}


@pytest.mark.parametrize("name", [*TORCH, "legacy"])
def test_a_file_of_torchs_says_what_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "old.pt"
    if name == "legacy":
        torch.save(TORCH["plain"], path, _use_new_zipfile_serialization=False)
    else:
        torch.save(TORCH[name], path)
    with pytest.raises(UserError, match=r"old.pt: it is (torch.save's format|a pickle), which "):
        checkpoint.load(path)


def test_a_small_file_never_asks_for_much_memory(tmp_path: Path) -> None:
    """A packed archive, a header that claims more than there is, and a file that is mostly hole."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(100 << 20))
    claims = {"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    header = json.dumps(claims).encode()
    for content in (packed.getvalue(), len(header).to_bytes(8, "little") + header):
        (tmp_path / "bomb.pt").write_bytes(content)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError, match=r"^not a checkpoint of ours: "):
            checkpoint.load(tmp_path / "bomb.pt")
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown_kib < 50_000
    with (tmp_path / "hole.pt").open("wb") as file:
        file.truncate(1 << 43)
    with pytest.raises(UserError, match=r"hole.pt: 8,796,093,022,208 bytes don't fit"):
        checkpoint.load(tmp_path / "hole.pt")


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(UserError, match=r"pipe.pt: it is no regular file"):
        checkpoint.load(tmp_path / "pipe.pt")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_saved_over_what_is(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, STATE)
    before = path.read_bytes()
    for state in ({"policy": {"w": torch.tensor([1.0, bad])}}, {"policy": {"w": bad}}):
        with pytest.raises(UserError, match=r"last.pt: not saved: policy/w isn't finite; an earl"):
            checkpoint.save(path, state)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_taken_tensors_are_no_part_of_the_file(good: Path) -> None:
    found = checkpoint.load(good)
    taken = found.take("policy", STATE["policy"])
    taken["w"].zero_()
    assert is_as_saved(found)
    assert is_as_saved(checkpoint.load(good))


def test_a_checkpoint_whose_first_byte_is_a_pickles_is_loaded(tmp_path: Path) -> None:
    """It begins with its header's length, a multiple of 8: one in 32 has such a byte."""
    path = tmp_path / "last.pt"
    beginnings = set()
    for letters in range(0, 256, 4):
        state = {"run": {"env": "x" * letters}, "policy": {"w": torch.ones(2)}}
        checkpoint.save(path, state)
        beginnings.add(path.read_bytes()[:1])
        assert not differing(checkpoint.load(path).values, state)
    assert b"\x80" in beginnings
