"""What learning and acting cost on one core, us of its time per environment step, without environments or a link.

A rollout of HARL's defaults: 20 environments, 200 steps, 3 agents (18 observations, 5 actions), a state of 54, nets
of two blocks of 128, five epochs. `update/ALGO/whole` is an update; `critic` and `policies` are its parts. The floor is
the bare matrix products, forward and backward, of the same nets as often as HAPPO needs them: what is above it is not
arithmetic. `update/acting` is the server's half of the policy for one slot of 10 environments, sampling included.
`update/diversity` is the intrinsic reward of the three as one group, beside happo's whole update of them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from rows import Row, report

from sde_harl.algorithms.on_policy.base import OnPolicy
from sde_harl.algorithms.registry import ALGORITHMS
from sde_harl.auxiliary.diversity import Diversity
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import AlgoConfig, CodecConfig, DiversityConfig, PolicyConfig
from sde_harl.draws.counters import Draw, Purpose
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.critic import Critic
from sde_harl.policy.critic_input import make_critic_input
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.policy.split_policy import SplitPolicy

STEPS, ENVS, SLOT = 200, 20, 10
AGENTS, OBS, STATE, ACTIONS, WIDTH, EPOCHS = 3, 18, 54, 5, 128, 5
GAME = EnvSpec(
    "test/spread",
    ("a", "b", "c"),
    (OBS,) * AGENTS,
    ((ACTIONS,),) * AGENTS,
    STATE,
    25,
    False,
    ("",) * AGENTS,
    False,
)
POLICY = PolicyConfig(
    blocks=2, local_blocks=1, width=WIDTH, latent=WIDTH, critic_blocks=2, critic_width=WIDTH
)


class Problem(NamedTuple):
    algorithm: OnPolicy
    rollout: Rollout


def problem(name: str, shape: PolicyConfig = POLICY) -> Problem:
    """An algorithm and a rollout that its policy acted in."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    share, kind = name in ("mappo", "ippo"), ALGORITHMS[name]
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
    rollout.available_actions[:], rollout.active_masks[:], rollout.truncated[24::25] = (
        True,
        True,
        True,
    )
    decision = policy.acting().act(
        latents(policy, rollout), rollout.available_actions.reshape(AGENTS, -1, ACTIONS), rng
    )
    rollout.actions[:] = decision.actions.reshape(rollout.actions.shape)
    rollout.log_probs[:] = decision.log_probs.reshape(rollout.log_probs.shape)
    return Problem(
        kind(policy=policy, critic=critic, algo=algo, codec=codec, generator=generator), rollout
    )


@torch.no_grad()
def latents(policy: SplitPolicy, rollout: Rollout) -> np.ndarray:
    """(N, B, Z) that the devices would send."""
    sent = np.empty((AGENTS, STEPS * ENVS, WIDTH), np.float32)
    for net in policy.groups:
        members = list(net.members)
        sent[members] = net.encode(
            net.normalise(torch.from_numpy(rollout.obs[members]).flatten(1, 2))
        ).numpy()
    return sent


def products(widths: list[int]) -> Callable[[], None]:
    """The matrix products of one forward and backward pass of a net over the rollout, and nothing else."""
    rows = [torch.randn(STEPS * ENVS, width) for width in widths]
    weights = [torch.randn(*pair) for pair in zip(widths[:-1], widths[1:])]

    def run() -> None:
        for x, weight, gradient in zip(rows, weights, rows[1:]):
            x @ weight
            x.T @ gradient
        for weight, gradient in zip(weights[1:], rows[2:]):
            gradient @ weight.T

    return run


def cpu_us(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median processor time of each call, all called in turn in every round."""
    taken: dict[str, list[int]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.process_time_ns()
            call()
            taken[name].append(time.process_time_ns() - started)
    return {name: float(np.median(each[1:])) / 1e3 for name, each in taken.items()}


def learning(name: str, rounds: int) -> list[Row]:
    algorithm, rollout = problem(name)
    policy, critic = products([OBS, WIDTH, WIDTH, ACTIONS]), products([STATE, WIDTH, WIDTH, 1])
    taken = cpu_us(
        {
            "whole": lambda: algorithm.update(rollout, 0.0),
            "critic": lambda: algorithm.critic_trainer.start_update(
                algorithm.critic_trainer.estimate(rollout)
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
            f"update/{name}/{part}",
            value / steps,
            "us/step",
            floors[part] / steps,
            value / floors[part],
        )
        for part, value in parts.items()
    ]


def diversity(rounds: int) -> Row:
    algorithm, rollout = problem("happo", replace(POLICY, groups=((0, 1, 2),)))
    intrinsic = Diversity(
        algorithm.policy, GAME, DiversityConfig(coef=0.1), torch.Generator().manual_seed(0)
    )
    calls = {
        "reward": lambda: intrinsic.reward(rollout),
        "update": lambda: algorithm.update(rollout, 0.0),
    }
    taken = cpu_us(calls, rounds)
    value, update = (taken[name] / (STEPS * ENVS) for name in calls)
    return Row("update/diversity", value, "us/step", update, value / update)


def acting(rounds: int) -> Row:
    rng = np.random.default_rng(0)
    policy: ActingPolicy = problem("happo").algorithm.policy.acting()
    sent = rng.normal(size=(AGENTS, SLOT, WIDTH)).astype(np.float32)
    available = np.ones((AGENTS, SLOT, ACTIONS), bool)
    hidden, weights = rng.normal(size=(2, AGENTS, WIDTH, WIDTH)).astype(np.float32)
    draw = Draw(0, Purpose.ACTING, 0, 0, np.arange(AGENTS, dtype=np.int32))
    calls = 200  # a clock's tick is longer than one
    taken = cpu_us(
        {
            "act": lambda: [policy.act(sent, available, draw) for _ in range(calls)],
            "floor": lambda: [
                np.matmul(np.matmul(sent, hidden), weights[..., :ACTIONS]) for _ in range(calls)
            ],
        },
        rounds,
    )
    value, floor = taken["act"] / calls / SLOT, taken["floor"] / calls / SLOT
    return Row("update/acting", value, "us/step", floor, value / floor)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="measure little, to see that it works")
    rounds = 2 if parser.parse_known_args(argv)[0].quick else 15
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows = [row for name in ALGORITHMS for row in learning(name, rounds)]
    report([*rows, diversity(rounds), acting(rounds)], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
