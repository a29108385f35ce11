"""The cost of learning and acting on one core, without environments or a link.

Values are microseconds of processor time per environment step. The rollout has HARL's defaults: 20
environments, 200 steps, 3 agents (18 observations, 5 actions), a state of 54, nets of two blocks of
128, five epochs.

* `update/ALGO/whole` is an update; `critic` and `policies` are its parts. The floor is the bare
  matrix products, forward and backward, of the same nets as often as HAPPO needs them: everything
  above it is not arithmetic.
* `update/acting` is the server's half of the policy for one slot of 10 environments, with sampling.
* `update/diversity` is the intrinsic reward of the three agents as one group. It is compared with
  an update of them by happo.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rows import Row, report

from sde_harl.algorithms.on_policy.base import OnPolicy
from sde_harl.algorithms.registry import ON_POLICY
from sde_harl.auxiliary.diversity import Diversity
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import AlgoConfig, CodecConfig, DiversityConfig, PolicyConfig
from sde_harl.draws.counters import Draw, Purpose
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.critic import Critic
from sde_harl.policy.critic_input import make_critic_input
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.policy.split_policy import SplitPolicy
from sde_harl.run import keep_freed_memory
from sde_harl.training.learned import prepare_torch

STEPS = 200
ENVS = 20
SLOT = 10
"""Environments of one slot, which act together."""
AGENTS = 3
OBS = 18
STATE = 54
ACTIONS = 5
WIDTH = 128
EPOCHS = 5
CALLS = 200
"""Decisions timed together: the clock's tick is longer than one."""
GAME = EnvSpec(
    name="test/spread",
    agents=("a", "b", "c"),
    obs_sizes=(OBS,) * AGENTS,
    action_sizes=((ACTIONS,),) * AGENTS,
    state_size=STATE,
    episode_limit=25,
    continuous=False,
    unit_types=("",) * AGENTS,
    has_win=False,
)
POLICY = PolicyConfig(
    blocks=2, local_blocks=1, width=WIDTH, latent=WIDTH, critic_blocks=2, critic_width=WIDTH
)


DRAW = Draw(
    seed=0,
    purpose=Purpose.ACTING,
    step=0,
    first_environment=0,
    agents=np.arange(AGENTS, dtype=np.int32),
)


class Problem(NamedTuple):
    """An algorithm, and a rollout that its policy acted in."""

    algorithm: OnPolicy
    rollout: Rollout


def problem(name: str, shape: PolicyConfig = POLICY) -> Problem:
    """Returns algorithm `name` and a rollout of random observations and rewards."""
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    share = name in ("mappo", "ippo")
    kind = ON_POLICY[name]
    view = make_critic_input("own" if kind.decentralised_critic else "EP", GAME)
    codec = CodecConfig(name="float32")
    policy = SplitPolicy(spec=GAME, policy=shape, codec=codec, share=share, generator=generator)
    algo = AlgoConfig(name=name, share_param=share, epochs=EPOCHS)
    critic = Critic(
        critic_input=view,
        policy=POLICY,
        share=share or not kind.decentralised_critic,
        generator=generator,
    )
    rollout = Rollout(GAME, steps=STEPS, envs=ENVS, latent_size=WIDTH, critic_input=view)
    for each in (rollout.obs, rollout.critic_inputs, rollout.final_critic_inputs, rollout.rewards):
        each[:] = rng.normal(size=each.shape)
    rollout.available_actions[:] = True
    rollout.active_masks[:] = True
    rollout.truncated[24::25] = True  # as simple_spread cuts its episodes
    decision = policy.acting().act(
        latents(policy, rollout), rollout.available_actions.reshape(AGENTS, -1, ACTIONS), DRAW
    )
    rollout.actions[:] = decision.actions.reshape(rollout.actions.shape)
    rollout.log_probs[:] = decision.log_probs.reshape(rollout.log_probs.shape)
    algorithm = kind(policy=policy, critic=critic, algo=algo, codec=codec, generator=generator)
    return Problem(algorithm=algorithm, rollout=rollout)


@torch.no_grad()
def latents(policy: SplitPolicy, rollout: Rollout) -> NDArray[np.float32]:
    """Returns (N, B, Z), the latents that the devices would send."""
    sent = np.empty((AGENTS, STEPS * ENVS, WIDTH), np.float32)
    for net in policy.groups:
        members = list(net.members)
        sent[members] = net.encode(
            net.normalise(torch.from_numpy(rollout.obs[members]).flatten(1, 2))
        ).numpy()
    return sent


def products(widths: list[int]) -> Callable[[], None]:
    """Returns a call that does the matrix products of one forward and backward pass, no more."""
    rows = [torch.randn(STEPS * ENVS, width) for width in widths]
    weights = [torch.randn(*pair) for pair in zip(widths[:-1], widths[1:])]

    def run() -> None:
        for x, weight, gradient in zip(rows, weights, rows[1:]):
            x @ weight
            x.T @ gradient
        for weight, gradient in zip(weights[1:], rows[2:]):
            gradient @ weight.T

    return run


def cpu_us(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns the median processor time of each call, all called in turn in every round."""
    taken: dict[str, list[int]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.process_time_ns()
            call()
            taken[name].append(time.process_time_ns() - started)
    # The first round warms caches and allocators.
    return {name: float(np.median(each[1:])) / 1e3 for name, each in taken.items()}


def learning(name: str, rounds: int) -> list[Row]:
    """Returns the rows of an algorithm's update."""
    algorithm, rollout = problem(name)
    policy = products([OBS, WIDTH, WIDTH, ACTIONS])
    critic = products([STATE, WIDTH, WIDTH, 1])
    taken = cpu_us(
        {
            "whole": lambda: algorithm.update(rollout, 0.0),
            "critic": lambda: algorithm.critic_trainer.start_update(
                algorithm.critic_trainer.estimator.estimate(rollout)
            ).result(),
            "policy floor": policy,
            "critic floor": critic,
        },
        rounds,
    )
    steps = STEPS * ENVS
    parts = {
        "whole": taken["whole"],
        "critic": taken["critic"],
        "policies": taken["whole"] - taken["critic"],
    }
    floors = {
        "critic": EPOCHS * taken["critic floor"],
        "policies": EPOCHS * AGENTS * taken["policy floor"],
    }
    floors["whole"] = sum(floors.values())
    return [
        Row(
            name=f"update/{name}/{part}",
            value=value / steps,
            unit="us/step",
            floor=floors[part] / steps,
            ratio=value / floors[part],
        )
        for part, value in parts.items()
    ]


def diversity(rounds: int) -> Row:
    """Returns the row of the intrinsic reward."""
    algorithm, rollout = problem("happo", POLICY.model_copy(update={"groups": ((0, 1, 2),)}))
    intrinsic = Diversity(
        policy=algorithm.policy,
        spec=GAME,
        config=DiversityConfig(coef=0.1),
        generator=torch.Generator().manual_seed(0),
    )
    calls = {
        "reward": lambda: intrinsic.reward(rollout),
        "update": lambda: algorithm.update(rollout, 0.0),
    }
    taken = cpu_us(calls, rounds)
    value, update = (taken[name] / (STEPS * ENVS) for name in calls)
    return Row(
        name="update/diversity", value=value, unit="us/step", floor=update, ratio=value / update
    )


def acting(rounds: int) -> Row:
    """Returns the row of the server's half of a decision."""
    rng = np.random.default_rng(0)
    policy: ActingPolicy = problem("happo").algorithm.policy.acting()
    sent = rng.normal(size=(AGENTS, SLOT, WIDTH)).astype(np.float32)
    available = np.ones((AGENTS, SLOT, ACTIONS), bool)
    hidden, weights = rng.normal(size=(2, AGENTS, WIDTH, WIDTH)).astype(np.float32)
    taken = cpu_us(
        {
            "act": lambda: [policy.act(sent, available, DRAW) for _ in range(CALLS)],
            "floor": lambda: [
                np.matmul(np.matmul(sent, hidden), weights[..., :ACTIONS]) for _ in range(CALLS)
            ],
        },
        rounds,
    )
    value = taken["act"] / CALLS / SLOT
    floor = taken["floor"] / CALLS / SLOT
    return Row(name="update/acting", value=value, unit="us/step", floor=floor, ratio=value / floor)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="measure little, to see that it works")
    rounds = 2 if parser.parse_known_args(argv)[0].quick else 15
    torch.set_num_threads(1)
    prepare_torch()
    keep_freed_memory()
    rows = [row for name in ON_POLICY for row in learning(name, rounds)]
    report([*rows, diversity(rounds), acting(rounds)], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
