"""Checkpoints that are well formed and say what no run says: gone on from, or refused in a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import hang_limit_s
from safetensors.torch import save as to_safetensors
from small_runs import made

from sde_harl.errors import UserError
from sde_harl.record import checkpoint
from sde_harl.record.checkpoint import Value

WORDS = ["--algo", "happo", "--env", "mpe", "env.backend=mpe2", "train.envs=2", "train.slots=1"]
WORDS += ["train.rollout=10", "eval.episodes=1", "codec.target_bytes=8", "policy.blocks=2"]
FIRST = [*WORDS, "train.steps=40", "policy.fallback_head=true"]
MORE = [*WORDS, "train.steps=60", "policy.fallback_head=true"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gives the folder of a run that may go on."""
    learner = made(tmp_path_factory.mktemp("stopped"), *FIRST)
    learner.run()
    return learner.logger.folder


def changed(stopped: Path, folder: Path, **values: Value) -> Path:
    """Returns a copy of a run whose checkpoint has other values, under a digest that fits."""
    copy = folder / "run"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(stopped, copy)
    path = copy / "models" / "last.pt"
    for other in path.parent.glob("[0-9]*.pt"):
        other.unlink()  # or it would be taken in the place of one that is refused
    found = {**checkpoint.load(path).values, **values}
    tensors = {
        name: each.contiguous().clone()
        for name, each in found.items()
        if isinstance(each, torch.Tensor)
    }
    others = json.dumps({name: each for name, each in found.items() if name not in tensors})
    digest = checkpoint._digest(tensors, others)
    metadata = {"format": checkpoint.FORMAT, "values": others, "sha256": digest}
    path.write_bytes(to_safetensors(tensors, metadata))
    return copy


def goes_on_or_says_why(copy: Path, folder: Path, word: str) -> str:
    """Starts a run from the checkpoint; returns the line where it is refused."""
    before = (copy / "models" / "last.pt").read_bytes()
    try:
        made(folder / "on", *MORE, word).run()
    except UserError as error:
        line = str(error)
    else:
        return ""
    assert "\n" not in line
    assert line.startswith("learning has become unstable") or str(copy) in line
    if str(copy) in line:
        assert (copy / "models" / "last.pt").read_bytes() == before
    return line


COUNTED = [-1, 1 << 62, 10**30]
WRONG: list[tuple[str, Value]] = [
    *[("counters/steps", count) for count in COUNTED],
    *[("counters/version", count) for count in COUNTED],
    ("counters/past_steps", -1),
    ("counters/past_steps", 1 << 62),
    ("counters/evaluated", -1),
    ("counters/evaluated", 1000),
    ("rate_control/coef", 1e300),
    ("environments/0/episodes", torch.tensor([-1, 0])),
    ("environments/0/episodes", torch.tensor([1.0, 2.0])),
    ("environments/0/episodes", torch.tensor([1 << 40, 0])),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_no_run_counts_to_is_refused(
    name: str, value: Value, stopped: Path, tmp_path: Path
) -> None:
    copy = changed(stopped, tmp_path, **{name: value})
    assert goes_on_or_says_why(copy, tmp_path, f"train.resume={copy}")


@pytest.mark.parametrize("episodes", [-5, 1 << 40, (1 << 63) - 1])
def test_a_run_from_another_ones_nets_begins_behind_its_episodes(
    episodes: int, stopped: Path, tmp_path: Path
) -> None:
    copy = changed(stopped, tmp_path, **{"environments/0/episodes": torch.tensor([episodes] * 2)})
    line = goes_on_or_says_why(copy, tmp_path, f"train.load={copy}/models/last.pt")
    assert "not a checkpoint of such a run: " in line


NUMBERS = st.one_of(
    st.integers(-(2**64), 2**64),
    st.integers(-1, 3),
    st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
    st.text(max_size=5),
)


def another(data: st.DataObject, value: Value) -> Value:
    """Draws what stands in the place of a value."""
    if not isinstance(value, torch.Tensor):
        return data.draw(NUMBERS)
    shape = data.draw(st.sampled_from([value.shape, (), (0,), (1, *value.shape), (2,), (3, 1)]))
    if value.dtype in (torch.float32, torch.float64) and data.draw(st.booleans()):
        fill = data.draw(st.sampled_from([0.0, -1.0, 1e-40, 1e30, -1e30]))
        return torch.full(shape, fill, dtype=value.dtype)
    dtype = data.draw(st.sampled_from([value.dtype, torch.int64, torch.uint8, torch.float64]))
    return torch.full(shape, data.draw(st.integers(-2, 9)), dtype=torch.int64).to(dtype)


def check_any_change(data: st.DataObject, stopped: Path, folder: Path) -> None:
    torch.set_flush_denormal(False)  # which the learner sets and hypothesis refuses
    values = checkpoint.load(stopped / "models" / "last.pt").values
    # Half of them are the few that are no weights.
    others = [name for name in values if not name.startswith(("policy/", "algorithm/"))]
    name = data.draw(st.sampled_from(others) | st.sampled_from([*values]))
    copy = changed(stopped, folder, **{name: another(data, values[name])})
    goes_on_or_says_why(copy, folder, f"train.resume={copy}")


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_checkpoint_of_any_values_is_gone_on_from_or_refused(
    data: st.DataObject, stopped: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_any_change(data, stopped, tmp_path_factory.mktemp("any"))


@pytest.mark.slow
@pytest.mark.timeout(hang_limit_s(1800))
@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_500_checkpoints_of_any_values(
    data: st.DataObject, stopped: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check_any_change(data, stopped, tmp_path_factory.mktemp("any"))
