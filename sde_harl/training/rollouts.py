"""Makes what is played into: rollouts, and the slots of environments that fill them.

It imports no torch: executors that play environments of their own make theirs here, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec, VectorEnv
from sde_harl.meters.memory import check_fits
from sde_harl.meters.timing import Stages
from sde_harl.placement.base import Placement
from sde_harl.placement.registry import find_placement
from sde_harl.policy.critic_input import CriticInput
from sde_harl.policy.shapes import LocalShape
from sde_harl.server.executor_pool import ExecutorPool
from sde_harl.training.env_slot import EnvSlot


def make_rollout(
    config: Config,
    spec: EnvSpec,
    critic_input: CriticInput,
    *,
    shape: LocalShape,
    envs: int,
    replays: bool,
) -> Rollout:
    """Returns the arrays of one rollout of so many `envs`.

    `shape`: that of all agents' local nets. `replays`: the algorithm learns from a replay. Raises
    UserError where they don't fit into the memory.
    """
    latent_size = 0
    if find_placement(config.placement, config.policy).sends_latents:
        latent_size = shape.latent_max()
    recurrent = config.policy.recurrent
    # Without memory every step can be learnt by itself.
    chunk = config.algo.chunk if recurrent else 1
    make = functools.partial(
        Rollout,
        spec,
        latent_size=latent_size,
        critic_input=critic_input,
        chunk=chunk,
        memory_size=config.policy.width if recurrent else 0,
        keeps_final_obs=replays,
    )
    steps = config.train.rollout
    step_bytes = make(steps=chunk, envs=1).nbytes / chunk
    what = f"a rollout of {steps:,} steps of {envs:,} environments"
    check_fits("train.rollout", step_bytes * envs * steps, what)
    return make(steps=steps, envs=envs)


def make_slots(
    vectors: Mapping[int, VectorEnv],
    *,
    placement: type[Placement],
    pool: ExecutorPool,
    stages: Stages,
    note: Callable[[str, str], None],
) -> list[EnvSlot]:
    """Returns the vectors, which come by the number of their slot, each with its own placement.

    `note` as in `EnvSlot`.
    """
    return [
        EnvSlot(
            number,
            env,
            placement=placement(number, spec=env.spec, pool=pool, stages=stages),
            stages=stages,
            note=note,
        )
        for number, env in vectors.items()
    ]
