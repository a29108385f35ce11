"""The cost of a replay and of off-policy updates, on one core, without environments or a link.

The game has simple_spread's sizes (3 agents, 18 observations, 5 actions, a state of 54), the nets
two blocks of 256, a batch 1,000 rows and a return 20 steps, as in HARL's settings of HASAC.

* `replay/sample` is a sample of 1,000 of a replay of a million steps; `replay/sample/one` is the
  same with returns of one step. The floor is the bare copies of the sampled rows.
* `replay/memory` is what the full replay takes; the floor is one float32 for each number in it.
* `replay/ALGO/update` is one update: the sample, the critics, every group, the target nets. The
  floor is its bare matrix products.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
from rows import Row, report
from update import ACTIONS, AGENTS, ENVS, GAME, OBS, STATE, cpu_us

from sde_harl.algorithms.off_policy.base import OffPolicy
from sde_harl.algorithms.off_policy.reports import Reports
from sde_harl.algorithms.registry import OFF_POLICY
from sde_harl.buffers.replay import Replay
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import AlgoConfig, CodecConfig, Config, PolicyConfig, TrainConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.critic_input import make_critic_input
from sde_harl.policy.layers import spare_columns
from sde_harl.policy.split_policy import SplitPolicy
from sde_harl.run import keep_freed_memory
from sde_harl.training.learned import prepare_torch

WIDTH = 256
BATCH = 1000
STEPS = 20
CAPACITY = 10**6
PART = 1000
"""Steps of each environment that the replay is filled with at a time."""
CONTINUOUS = GAME._replace(
    action_sizes=((ACTIONS,),) * AGENTS,
    continuous=True,
    action_bounds=(((0.0, 1.0),) * ACTIONS,) * AGENTS,
)


def filled(spec: EnvSpec, replay: Replay, entries: int) -> Replay:
    """Returns the replay with so many random entries; its episodes have 25 steps."""
    rng = np.random.default_rng(0)
    steps = min(PART, replay.length // 2)
    view = make_critic_input("EP", spec)
    rollout = Rollout(
        spec, steps=steps, envs=ENVS, latent_size=0, critic_input=view, keeps_final_obs=True
    )
    for each in (rollout.obs, rollout.critic_inputs, rollout.rewards):
        each[:] = rng.normal(size=each.shape)
    rollout.available_actions[:] = True
    rollout.active_masks[:] = True
    rollout.truncated[24::25] = True
    while len(replay) < entries:
        replay.add(rollout)
    return replay


def learner(name: str) -> OffPolicy:
    """Returns algorithm `name` with a replay of a few thousand steps."""
    kind = OFF_POLICY[name]
    spec = CONTINUOUS if kind.continuous and not kind.discrete else GAME
    config = Config(
        algo=AlgoConfig(name=name, buffer_size=10_000, n_step=STEPS, policy_freq=1),
        policy=PolicyConfig(
            blocks=2, local_blocks=1, width=WIDTH, latent=WIDTH, critic_width=WIDTH
        ),
        codec=CodecConfig(name="float32"),
        train=TrainConfig(envs=ENVS, slots=1),
    )
    generator = torch.Generator().manual_seed(0)
    policy = SplitPolicy(
        spec=spec,
        policy=config.policy,
        codec=config.codec,
        share=False,
        generator=generator,
        heads=kind.heads(spec),
    )
    algorithm = kind(
        policy=policy,
        spec=spec,
        critic_input=make_critic_input("EP", spec),
        config=config,
        generator=generator,
    )
    filled(spec, algorithm.experience.replay, 9_000)
    return algorithm


def products(
    widths: list[int], count: int, rows: int = BATCH, *, inputs: bool = False, weights: bool = False
) -> Callable[[], None]:
    """Returns a call that does the products of `count` stacked nets for `rows` rows, no more.

    inputs, weights: those of the gradients too, of the blocks' inputs and of the weights.
    """
    arrays = [torch.randn(count, rows, width) for width in widths]
    matrices = [torch.randn(count, *pair) for pair in zip(widths[:-1], widths[1:])]

    def run() -> None:
        layers = zip(arrays, matrices, arrays[1:])
        for k, (x, matrix, gradient) in enumerate(layers):
            torch.bmm(x, matrix)
            if inputs and k:  # the net's own input needs no gradient
                torch.bmm(gradient, matrix.mT)
            if weights:
                torch.bmm(x.mT, gradient)

    return run


def updates(name: str, rounds: int) -> Row:
    """Returns the row of an algorithm's update."""
    algorithm = learner(name)
    # A product of 2 to 15 columns takes longer than one of 16. The update itself takes a pass for
    # these columns that is faster than either.
    columns = ACTIONS + spare_columns(ACTIONS)
    policy = [OBS, WIDTH, WIDTH, columns]
    critic = [STATE + AGENTS * ACTIONS, WIDTH, WIDTH, 1]
    # What a group asks of the joint Q, whose first layer's part of the state is computed once: the
    # least value of twins, with the gradient of one of them in each row; the first critic's; or the
    # values of all choices.
    asked = [AGENTS * ACTIONS, WIDTH, WIDTH, 1]
    joint_q = [products(asked, 1, inputs=True)]
    if name == "hasac":
        joint_q.append(products(asked, 1))
    if name == "had3qn":
        joint_q = [products(asked, 1, rows=ACTIONS * BATCH)]
    taken = cpu_us(
        {
            "update": lambda: algorithm.learn_once(Reports(algorithm.scalars)),
            "policy": products(policy, 1, inputs=True, weights=True),
            "policy forward": products(policy, AGENTS),
            "critic": products(critic, algorithm.critics, inputs=True, weights=True),
            "critic forward": products(critic, algorithm.critics),
            "asked": lambda: [each() for each in joint_q],
        },
        rounds,
    )
    # Targets; the critics; each group's pass and what it asks.
    floor = taken["policy forward"] + taken["critic forward"] + taken["critic"]
    floor += AGENTS * (taken["policy"] + taken["asked"])
    if algorithm.sequential:  # what each group but the last does after its step
        floor += taken["policy forward"] * (AGENTS - 1) / AGENTS
    value = taken["update"]
    return Row(
        name=f"replay/{name}/update",
        value=value / 1e3,
        unit="ms",
        floor=floor / 1e3,
        ratio=value / floor,
    )


def samples(capacity: int, rounds: int) -> list[Row]:
    """Returns the rows of the replay alone."""
    replay = filled(GAME, Replay(GAME, capacity=capacity, envs=ENVS), capacity)
    generator = torch.Generator().manual_seed(0)
    numbers = 2 * AGENTS * (OBS + 1) + 2 * STATE
    plain = np.ones((capacity, numbers // 2), np.float32)  # zeros would share one page
    places = np.random.default_rng(0).integers(0, capacity, 2 * BATCH)
    taken = cpu_us(
        {
            "sample": lambda: replay.sample(BATCH, generator, steps=STEPS, gamma=0.99),
            "sample/one": lambda: replay.sample(BATCH, generator, steps=1, gamma=0.99),
            "floor": lambda: plain[places],
        },
        20 * rounds,
    )
    rows = [
        Row(
            name=f"replay/{name}",
            value=taken[name] / 1e3,
            unit="ms",
            floor=taken["floor"] / 1e3,
            ratio=taken[name] / taken["floor"],
        )
        for name in ("sample", "sample/one")
    ]
    floor = 4.0 * capacity * (AGENTS * (OBS + 1) + STATE + 1)
    memory = Row(
        name="replay/memory",
        value=replay.nbytes / 1e6,
        unit="MB",
        floor=floor / 1e6,
        ratio=replay.nbytes / floor,
    )
    return [*rows, memory]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="measure little, to see that it works")
    quick = parser.parse_known_args(argv)[0].quick
    rounds = 2 if quick else 15
    torch.set_num_threads(1)
    prepare_torch()
    keep_freed_memory()
    rows = samples(20_000 if quick else CAPACITY, rounds)
    report([*rows, *(updates(name, rounds) for name in OFF_POLICY)], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
