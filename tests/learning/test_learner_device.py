"""Updates on a device: what is copied, and that nothing else is read while it computes."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from games import learner, spec
from mixed_rollout import mixed_rollout
from torch import Tensor

from sde_harl.auxiliary.device import HOST, Device
from sde_harl.config.arguments import parse
from sde_harl.errors import UserError
from sde_harl.training.learned import learning_device

GAME = spec(((3,), (4,), (2,)), 5)
GROUPS = ((0, 2), (1,))
CASES: dict[str, dict[str, Any]] = {
    "happo": {"name": "happo", "minibatches": 2},
    "ippo": {"name": "ippo"},
    "recurrent": {"name": "happo", "recurrent": True},
    "hatrpo": {"name": "hatrpo"},
}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")


class Elsewhere(Device):
    """Other memory of the host, to which everything is copied as to a GPU's."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.is_host = False


class Nowhere(Device):
    """A device that computes sizes alone, and fails where a number of its own is looked at."""

    def __init__(self) -> None:
        super().__init__("meta")

    def _down(self, block: Tensor) -> Tensor:
        return torch.zeros(block.shape, dtype=block.dtype)


def update(device: Device, name: str, **settings: Any) -> tuple[dict[str, float], list[Tensor]]:
    """Returns the scalars of an update and what is learnt then, with the policy's weights."""
    recurrent = settings.get("recurrent", False)
    make = functools.partial(learner, GAME, name, groups=GROUPS, epochs=2, **settings)
    rollout = mixed_rollout(make().policy, GAME, name, recurrent=recurrent)
    algorithm = make(device=device)
    scalars = algorithm.update(rollout, 0.0)
    return scalars, [each.detach() for each in algorithm.policy.parameters()]


@pytest.mark.parametrize("case", CASES)
def test_what_is_copied_elsewhere_is_learnt_from_alike(case: str) -> None:
    wanted, weights = update(HOST, **CASES[case])
    device = Elsewhere()
    scalars, found = update(device, **CASES[case])
    assert scalars == wanted
    assert all(map(torch.equal, found, weights))
    # HATRPO's entropy model takes a sample of rows for each pass.
    if case != "hatrpo":
        assert device.copies_up <= 12, "blocks, however many tensors and steps there are"


@pytest.mark.parametrize("case", ["happo", "ippo", "recurrent"])
def test_nothing_is_read_while_the_device_computes(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fused steps are for devices that compute.
    plain = functools.partial(_plain_adam, torch.optim.Adam)
    monkeypatch.setattr(torch.optim, "Adam", plain)
    few = Nowhere()
    update(few, **CASES[case])
    many = Nowhere()
    update(many, **{**CASES[case], "critic_epochs": 7})
    assert (many.copies_up, many.copies_down) == (few.copies_up, few.copies_down)
    # Values twice, with those of states that episodes were cut in; the scalars of the critic, and
    # those of both groups.
    assert few.copies_down == 5


def _plain_adam(adam: Any, *args: Any, fused: bool, **settings: Any) -> Any:
    return adam(*args, **settings)


def test_nets_change_places_in_one_copy_each_way() -> None:
    policy = learner(GAME, "happo", groups=GROUPS).policy
    device = Elsewhere()
    other = copy.deepcopy(policy)
    with torch.no_grad():
        for each in policy.parameters():
            each += 1.0
    device.take_over(other, policy)
    assert (device.copies_up, device.copies_down) == (1, 0)
    assert all(map(torch.equal, other.parameters(), policy.parameters()))
    with torch.no_grad():
        for each in other.parameters():
            each += 1.0
    device.give_back(other, policy)
    assert (device.copies_up, device.copies_down) == (1, 1)
    assert all(map(torch.equal, other.parameters(), policy.parameters()))


def test_blocks_keep_types_shapes_and_numbers() -> None:
    tensors = [
        torch.arange(6.0).view(2, 3),
        torch.tensor([True, False, True]),
        torch.zeros(0, 4),
        torch.arange(5, dtype=torch.int64),
        torch.tensor(2.5, dtype=torch.float64),
        torch.arange(6.0).view(2, 3).T,
    ]
    for found, each in zip(Elsewhere().put(tensors), tensors):
        assert found.dtype is each.dtype
        assert torch.equal(found, each)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from sde_harl.algorithms.registry import ALGORITHMS

    def found(word: str, algorithm: str = "happo", *more: str) -> Device:
        words = ["--env", "mpe", "--algo", algorithm, f"learner.device={word}", *more]
        config = parse(words).config
        assert config
        return learning_device(config, ALGORITHMS[algorithm])

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert found("auto") is HOST
    assert found("cpu") is HOST
    assert found("cuda", "happo", "train.steps=0") is HOST, "what a GPU learnt plays anywhere"
    with pytest.raises(UserError, match="expected cpu or auto, got cuda"):
        found("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert found("auto").device.type == "cuda"
    assert found("auto", "hasac") is HOST
    with pytest.raises(UserError, match="expected cpu, got cuda"):
        found("cuda", "hasac")


@needs_gpu
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_learns_what_the_host_learns(case: str) -> None:
    wanted, weights = update(HOST, **CASES[case])
    scalars, found = update(Device("cuda"), **CASES[case])
    for name, value in wanted.items():
        assert scalars[name] == pytest.approx(value, rel=1e-3, abs=1e-3), name
    for each, ours in zip(found, weights):
        torch.testing.assert_close(each.cpu(), ours, rtol=0, atol=1e-3)
