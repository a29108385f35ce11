"""Learning that can't go wrong unnoticed: rates, steps, seeds and numbers."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
import torch
from small_runs import made

from sde_harl.algorithms.on_policy.base import OnPolicy
from sde_harl.errors import UserError
from sde_harl.record.checkpoint import load

MPE = ["--algo", "happo", "--env", "mpe"]


@pytest.fixture
def factors(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Returns the factors by which learning rates are scaled, as they come."""
    found: list[float] = []
    decay = OnPolicy.decay

    def noted(algorithm: OnPolicy, factor: float) -> None:
        found.append(factor)
        decay(algorithm, factor)

    monkeypatch.setattr(OnPolicy, "decay", noted)
    return found


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [(360, [1.0, 2 / 3, 1 / 3]), (300, [1.0, 2 / 3, 1 / 3]), (10, [1.0])],
)
def test_the_rate_decays_from_one_to_one_updates_share(
    steps: int, wanted: list[float], factors: list[float], tmp_path: Path
) -> None:
    """A rollout is of 120 steps. HARL decays by updates, too."""
    learner = made(tmp_path, *MPE, "algo.name=haa2c", "algo.lr_decay=true", f"train.steps={steps}")
    learner.run()
    assert factors == pytest.approx(wanted)
    played = 120 * len(wanted)
    assert learner.counters.steps == played
    log = (learner.logger.folder / "log.txt").read_text()
    line = f"train.steps: {steps:,} asked, {played:,} will be played"
    assert (line in log) == (played > steps)
    assert f"{played:,} of {played:,} steps" in log or played > 120


def seeds(folder: Path) -> set[int]:
    with h5py.File(folder / "run.h5") as file:
        episodes = file["episodes"]
        return set(episodes["seed"][:][episodes["train"][:]].tolist())


def test_a_run_from_a_checkpoint_plays_other_games(tmp_path: Path) -> None:
    first = made(tmp_path / "first", *MPE)
    first.run()
    path = first.logger.folder / "models" / "last.pt"
    second = made(tmp_path / "second", *MPE, f"train.load={path}")
    second.run()
    third = made(tmp_path / "third", *MPE, f"train.load={second.logger.folder}/models/last.pt")
    third.run()
    played = [seeds(each.logger.folder) for each in (first, second, third)]
    assert all(len(each) >= 8 for each in played)
    assert len(set.union(*played)) == sum(map(len, played))
    assert third.counters.drawn_steps == 3 * 240


@pytest.mark.parametrize("algo", ["happo", "hatrpo", "mappo", "haa2c"])
def test_weights_that_explode_end_the_run_and_are_not_saved(algo: str, tmp_path: Path) -> None:
    words = ["algo.critic_lr=1e30", "algo.lr=1e30"]
    learner = made(tmp_path, *MPE, f"algo.name={algo}", *words, "algo.lr_decay=false")
    with pytest.raises(UserError, match="learning has become unstable"):
        learner.run()
    values = load(learner.logger.folder / "models" / "last.pt").values
    assert values["counters/steps"] == 0
    tensors = [value for value in values.values() if isinstance(value, torch.Tensor)]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    assert max(float(each.abs().max()) for each in tensors if each.is_floating_point()) < 1e18


def test_a_gradient_that_is_not_finite_is_not_applied(tmp_path: Path) -> None:
    learner = made(tmp_path, *MPE)
    net = learner.learned.policy.groups[0]
    before = [each.detach().clone() for each in net.policy_parameters()]
    loss = sum((each.sum() for each in net.policy_parameters()), torch.zeros(())) * float("nan")
    with pytest.raises(UserError, match=r"the gradient of group 0's policy is nan"):
        learner.learned.algorithm._step(0, loss, None, [])  # type: ignore[attr-defined]
    assert all(torch.equal(one, two) for one, two in zip(before, net.policy_parameters()))
    learner.logger.close()
