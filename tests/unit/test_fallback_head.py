"""Fallback heads: how they choose, learn and act, and that nothing else is changed by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from clock import Clock
from games import act, learner, new_rollout, see, spec
from held import Held
from pools import ROWS, SHAPE, weights
from small_runs import SMALL
from states import differing

from sde_harl.auxiliary.distillation import STEPS, Distillation
from sde_harl.config.arguments import parse
from sde_harl.draws.counters import Purpose, generator
from sde_harl.envs.base import EnvSpec
from sde_harl.envs.devices import World
from sde_harl.envs.vector.games import SerialVector
from sde_harl.errors import UserError
from sde_harl.executor.in_process import loopback
from sde_harl.meters.timing import Stages
from sde_harl.placement.split import Split
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.policy.inference.fallback_head import FallbackPolicy
from sde_harl.policy.inference.local_nets import LocalNets
from sde_harl.policy.shapes import (
    FallbackShape,
    LocalShape,
    fallback_parameter_shapes,
    local_parameter_shapes,
)
from sde_harl.protocol.actions import NO_LATENT
from sde_harl.record.checkpoint import load, save
from sde_harl.server import membership
from sde_harl.training.build import build
from sde_harl.training.env_slot import EnvSlot
from sde_harl.training.trainer import Trainer

HEAD = FallbackShape((3,), False, 0.0)
LATE = ["link.deadline_ms=20", "link.model=poor", "link.max_age=1"]
RNG = np.random.default_rng(5)


def heads(choice: int) -> list[list[np.ndarray]]:
    """Returns the heads of two agents that always choose `choice`."""
    return [[np.zeros((4, 3), np.float32), np.eye(3, dtype=np.float32)[choice]] for _ in range(2)]


# ---- what they choose


def flat_of(
    shape: LocalShape, fallback_head: FallbackShape, values: np.random.Generator
) -> np.ndarray:
    sizes = [
        int(np.prod(each))
        for each in [
            *local_parameter_shapes(shape),
            *fallback_parameter_shapes(shape, fallback_head),
        ]
    ]
    return values.normal(size=sum(sizes)).astype(np.float32)


def test_the_most_likely_choice_of_what_is_available_in_every_branch() -> None:
    fallback_head, obs = (
        FallbackShape((3, 2), False, 0.0),
        RNG.normal(size=(2, 6, 5)).astype(np.float32),
    )
    flat = flat_of(SHAPE, fallback_head, RNG)
    policy = FallbackPolicy(shape=SHAPE, fallback=fallback_head, weights=flat)
    latents = policy.local(obs)
    weight, bias = flat[-2 * 25 :][:40].reshape(2, 4, 5), flat[-10:].reshape(2, 1, 5)
    available = np.ones((2, 6, 5), bool)
    available[:, ::2, 1] = False
    outputs = np.where(available, latents @ weight + bias, -np.inf)
    wanted = np.stack([outputs[..., :3].argmax(-1), outputs[..., 3:].argmax(-1)], -1)
    assert np.array_equal(policy.act(latents, available), wanted)
    assert len(np.unique(wanted)) > 1


def test_continuous_heads_give_their_means_and_zero_in_the_padding() -> None:
    fallback_head, obs = (
        FallbackShape((1, 1), True, 0.0),
        RNG.normal(size=(2, 6, 5)).astype(np.float32),
    )
    flat = flat_of(SHAPE, fallback_head, RNG)
    policy = FallbackPolicy(shape=SHAPE, fallback=fallback_head, weights=flat)
    weight, bias = flat[-2 * 10 :][:16].reshape(2, 4, 2), flat[-4:].reshape(2, 1, 2)
    available = np.array([[True, True], [True, False]])[:, None].repeat(6, 1)
    latents = policy.local(obs)
    np.testing.assert_allclose(
        policy.act(latents, available), (latents @ weight + bias) * available, rtol=1e-5
    )


@pytest.mark.parametrize(
    "change", [lambda flat: flat[:-1], lambda flat: np.append(flat, 0), lambda flat: flat * np.nan]
)
def test_weights_that_are_not_right_are_refused(change: Any) -> None:
    with pytest.raises(ValueError, match="weights"):
        FallbackPolicy(shape=SHAPE, fallback=HEAD, weights=change(flat_of(SHAPE, HEAD, RNG)))


# ---- what they learn


def played(trainer: Any, game: EnvSpec, envs: int = 256, seed: int = 0) -> Any:
    rng, rollout = np.random.default_rng(seed), new_rollout(game, envs)
    rollout.available_actions[:] = game.choices()[:, None, None]
    see(rollout, rng.normal(size=(len(game.agents), envs, 3)).astype(np.float32))
    act(trainer.policy, rollout, rng)
    return rollout


@pytest.mark.parametrize("continuous", [False, True])
def test_they_become_a_policy_that_always_does_the_same(continuous: bool) -> None:
    """The policy's heads ignore the latent, so that its outputs can be met exactly."""
    game = spec(((2,), (1,)) if continuous else ((4, 2), (3,)), 3, continuous)
    trainer = learner(game)
    wanted = torch.tensor([0.3, -0.2] if continuous else [0.0, 1.0, 2.0, -1.0, 0.5, 0.0])
    for net in trainer.policy.groups:
        with torch.no_grad():
            net.head_weight.zero_()
            net.head_bias.copy_(wanted)
    distillation = Distillation(trainer.policy, game, seed=1)
    first = distillation.update(played(trainer, game), 0)
    for step in range(1, 60):
        last = distillation.update(played(trainer, game, seed=step), step)
    assert first["fallback/kl"] > 0.05
    assert last["fallback/kl"] < 1e-3
    assert last["fallback/agreement"] == 1.0
    bias = [head[1] for head in distillation.arrays()]
    if continuous:
        np.testing.assert_allclose(bias[0], [0.3, -0.2], atol=0.02)
        assert abs(bias[1][0] - 0.3) < 0.02
    else:
        assert [bias[0][:4].argmax(), bias[0][4:].argmax(), bias[1][:3].argmax()] == [2, 0, 2]
        assert (bias[1][[3, 5]] < -1e29).all(), "what an agent lacks it would choose"


def test_the_device_does_what_was_learnt() -> None:
    """numpy's latents before the quantiser give the torch head's choices, by published weights."""
    game = spec(((4,), (4,)), 3)
    trainer = learner(game)
    distillation, rollout = Distillation(trainer.policy, game, seed=1), played(trainer, game)
    for step in range(5):
        distillation.update(rollout, step)
    published = [
        net + head for net, head in zip(trainer.policy.local_parameters(), distillation.arrays())
    ]
    flat = np.concatenate([np.stack(arrays).ravel() for arrays in zip(*published)])
    policy = FallbackPolicy(
        shape=trainer.policy.shape, fallback=FallbackShape((4,), False, 0.0), weights=flat
    )
    actions = policy.act(policy.local(rollout.obs[:, 0]), rollout.available_actions[:, 0])
    lesson = distillation._lesson(rollout, 0)
    order = generator(1, Purpose.DISTILLATION).permutation(256)
    outputs = lesson.latents @ distillation._weight + distillation._bias
    assert np.array_equal(outputs.argmax(-1).numpy(), actions[:, order, 0])
    assert len(np.unique(actions)) > 1


def test_rows_of_the_dead_and_of_nobodys_decision_teach_nothing() -> None:
    game = spec(((4,), (4,)), 3)
    trainer = learner(game)
    distillation, rollout = Distillation(trainer.policy, game, seed=1), played(trainer, game)
    rollout.active_masks[0], rollout.decided[1] = False, False
    distillation.update(rollout, 0)
    assert not distillation._weight.any()
    assert not distillation._bias.any()


def test_no_gradient_and_no_change_reaches_the_policy() -> None:
    game = spec(((2,), (2,)), 3, continuous=True)
    trainer = learner(game, recurrent=True)
    rollout = played(trainer, game)
    rollout.memory = np.zeros((2, 1, 256, 16), np.float32)
    before = {name: each.clone() for name, each in trainer.policy.state_dict().items()}
    state = torch.get_rng_state()
    Distillation(trainer.policy, game, seed=1).update(rollout, 0)
    assert all(each.grad is None for each in trainer.policy.parameters())
    assert all(
        torch.equal(each, before[name]) for name, each in trainer.policy.state_dict().items()
    )
    assert torch.equal(state, torch.get_rng_state())


def test_what_a_checkpoint_keeps_is_all_that_the_next_update_begins_with(tmp_path: Path) -> None:
    game = spec(((4,), (4,)), 3)
    trainer = learner(game)
    one, other = (Distillation(trainer.policy, game, seed=1) for _ in range(2))
    rollout = played(trainer, game)
    one.update(rollout, 1)
    save(tmp_path / "one.pt", {"heads": one.state_dict()})
    other.load_state_dict(load(tmp_path / "one.pt").take("heads", one.state_dict()))
    assert one.update(rollout, 2) == other.update(rollout, 2)
    assert not differing(one.state_dict(), other.state_dict())
    assert float(one.state_dict()["bias.step"]) == 2 * STEPS
    for name in ("bias.step", "weight.exp_avg_sq"):
        with pytest.raises(ValueError, match="below zero"):
            other.load_state_dict({**one.state_dict(), name: one.state_dict()[name] - 1e9})


# ---- when they act


def test_the_order_is_last_latents_then_the_exit_head_then_nothing(
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
) -> None:
    """The server's policy takes 0, the exit head 1, the no-op is 2."""
    monkeypatch.setattr(membership, "ABSENT_NS", 20_000_000)
    game = EnvSpec(
        "test/world", ("a", "b"), (5, 5), ((3,), (3,)), 1, 100, False, ("", ""), False, noop=2
    )
    held = Held(clock, max_age=2, fallback_head=HEAD, heads=heads(1))
    stages = Stages()
    env_slot = EnvSlot(
        0,
        SerialVector([World(game) for _ in range(ROWS)], seed=1, first_env=0),
        placement=Split(0, spec=game, pool=held.pool, stages=stages),
        stages=stages,
        note=held.pool.note,
    )
    zeros = np.zeros((2, 4, 3), np.float32)
    server = ActingPolicy(
        trunk=[],
        head_weight=zeros,
        head_bias=np.array([[[1, 0, 0]]] * 2, np.float32),
        branches=(3,),
    )

    def decide() -> tuple[list[int], list[int]]:
        """Agent 1's age and choice in each environment."""
        decision = env_slot.decide(0, server, None)
        env_slot.advance()
        ages = [0] * ROWS if decision.ages is None else decision.ages[1].tolist()
        return ages, decision.actions[1, :, 0].tolist()

    assert decide() == ([0] * ROWS, [0] * ROWS)
    held.holding = {1}
    assert [decide() for _ in range(3)] == [
        ([1] * ROWS, [0] * ROWS),
        ([2] * ROWS, [0] * ROWS),
        ([NO_LATENT] * ROWS, [1] * ROWS),
    ]
    held.stopped = True
    while not held.pool.absent:
        decide()
    assert decide() == ([NO_LATENT] * ROWS, [2] * ROWS)
    decisions, _ = held.pool.report()
    assert not decisions.fallback[:4, 0].any(), "agent 0 had answered"
    assert not decisions.idle[:4, 0].any(), "agent 0 had answered"
    fallback, idle = decisions.fallback[:, 1].tolist(), decisions.idle[:, 1].tolist()
    assert fallback[:4] == [0, 0, 0, ROWS]
    assert fallback[-1] == 0
    assert idle[:4] == [0] * 4
    assert idle[-1] == ROWS
    assert (decisions.missed[1:, 1] == ROWS).all()


def test_a_device_and_rank_0_do_the_same_of_the_true_observation(clock: Clock) -> None:
    learnt = [
        [RNG.normal(size=(4, 3)).astype(np.float32), RNG.normal(size=3).astype(np.float32)]
        for _ in range(2)
    ]
    held = Held(clock, fallback_head=HEAD, heads=learnt)
    held.decide()  # the weights have come
    obs, available = RNG.normal(size=(2, ROWS, 5)).astype(np.float32), np.ones((2, ROWS, 3), bool)
    device = held.executor._handler.fallback  # type: ignore[attr-defined]
    assert device
    actions = held.pool.fallback_actions(obs, available)
    assert np.array_equal(device.act(device.local(obs), available), actions)
    flat = np.concatenate([np.stack(arrays).ravel() for arrays in zip(*weights())])
    outputs = LocalNets(SHAPE, flat)(obs) @ np.stack([each[0] for each in learnt])
    outputs += np.stack([each[1] for each in learnt])[:, None]
    assert np.array_equal(outputs.argmax(-1), actions[..., 0])


ANEW = (
    "environments",
    "slots",
    "record",
    "algorithm/critic_trainer/optimizer/",
    "algorithm/optimizers/",
    "algorithm/rate_trainers/",
    "counters/",
)
"""Parts that a run doesn't take over from another one's checkpoint."""


def made(folder: Path, *words: str) -> Trainer:
    config = parse(
        ["--env", "mpe", "--algo", "happo", "env.workers=0", *SMALL, *words, f"record.dir={folder}"]
    ).config
    assert config
    return Trainer(build(config, loopback()))


def run(folder: Path, *words: str) -> Trainer:
    learner = made(folder, *words)
    learner.run()
    return learner


def columns(trained: Trainer, table: str, *names: str) -> list[np.ndarray]:
    with h5py.File(trained.logger.folder / "run.h5") as file:
        return [file[table][name][:] for name in names]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trainer]:
    """Runs the same with and without fallback heads.

    None ever has to act, because then another game would be played.
    """
    folder = tmp_path_factory.mktemp("pair")
    return {each: run(folder, f"policy.fallback_head={each}") for each in ("true", "false")}


def test_the_policy_learns_the_same_with_and_without_them(pair: dict[str, Trainer]) -> None:
    one, other = (each.checkpoints.state() for each in pair.values())
    one.pop("record")  # how long they took
    other.pop("record")
    assert {name.partition("/")[0] for name in differing(one, other)} == {"fallback_head"}
    assert "fallback_head" not in other
    agreement, kl = columns(pair["true"], "training", "fallback.agreement", "fallback.kl")
    assert len(agreement) == 2
    assert (agreement > 0).all()
    assert (kl >= 0).all()
    with pytest.raises(KeyError):
        columns(pair["false"], "training", "fallback.kl")


def test_a_checkpoint_without_them_is_learnt_from_but_not_played(
    pair: dict[str, Trainer], tmp_path: Path
) -> None:
    with_them, without = (each.logger.folder / "models/last.pt" for each in pair.values())
    with pytest.raises(
        UserError,
        match=r"^policy.fallback_head: expected false, for .*last.pt has no fallback heads and ",
    ):
        made(tmp_path, "policy.fallback_head=true", f"train.load={without}", "train.steps=0")
    made(tmp_path, "policy.fallback_head=true", f"train.load={without}").logger.close()
    made(
        tmp_path, "policy.fallback_head=false", f"train.load={with_them}", "train.steps=0"
    ).logger.close()
    again = made(tmp_path, "policy.fallback_head=true", f"train.load={with_them}", "train.steps=0")
    again.logger.close()
    states = (each.checkpoints.state() for each in (pair["true"], again))
    assert all(name.startswith(ANEW) for name in differing(*states))
    values = load(with_them).values
    weight = values["fallback_head/weight"]
    assert isinstance(weight, torch.Tensor)
    weight[0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"nan.pt: not saved: fallback_head/weight isn't finite"):
        save(tmp_path / "nan.pt", values)


KINDS = {
    "recurrent": ["policy.recurrent=true", "algo.chunk=10"],
    "continuous, shared": [
        "env.continuous_actions=true",
        "algo.share_param=true",
        "env.map=simple_speaker_listener",
    ],
    "observations sent": ["policy.local_blocks=0", "codec.name=int8", "policy.groups=[[0,2],[1]]"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_late_agents_exit_and_every_kind_of_policy_has_them(kind: str, tmp_path: Path) -> None:
    trained = run(tmp_path, *LATE, "policy.fallback_head=true", *KINDS[kind])
    missed, idle, fallback = columns(
        trained, "training", "link.missed", "link.idle", "link.fallback"
    )
    assert (fallback > 0.005).all()
    assert not idle.any()
    assert (fallback <= missed).all()
    counted, total, train = columns(trained, "decisions", "fallback", "environments", "train")
    assert counted[train].sum() / total[train].sum() == pytest.approx(fallback.mean())
    played, unplayed = columns(trained, "evaluations", "fallback", "idle")
    assert played[-1] > 0
    assert not unplayed.any()


DEVICES = [
    "env.name=devices",
    "env.spec=a",
    "executor.sensor=a:b",
    "train.load=a",
    "train.steps=0",
    "train.envs=1",
]
WRONG = {
    "policy.fallback_head: expected false .policy.local_blocks": [
        "policy.local_blocks=3",
        "codec.name=none",
    ],
    "link.deadline_ms: expected more than 0 .policy.fallback_head": [*DEVICES, "train.slots=1"],
}


@pytest.mark.parametrize("line", WRONG)
def test_what_makes_no_sense_is_one_line(line: str) -> None:
    words = ["--env", "mpe", "--algo", "happo", "policy.fallback_head=true"]
    with pytest.raises(UserError, match=line):
        parse([*words, *WRONG[line]])
