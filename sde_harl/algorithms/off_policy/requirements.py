"""Requirements of off-policy algorithms: a run that does not meet them is refused by name."""

from __future__ import annotations

from sde_harl.buffers.replay import Replay
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.meters.memory import check_fits


def check_off_policy(config: Config, spec: EnvSpec) -> None:
    """Raises UserError for what off-policy algorithms can't do or have no room for."""
    name = config.algo.name
    if config.policy.recurrent:
        raise UserError(f"policy.recurrent: expected false, got true ({name} learns single steps)")
    if config.policy.fallback_head:
        raise UserError(
            f"policy.fallback_head: expected false, got true (not built for {name}, which is"
            " off-policy)"
        )
    if config.diversity.coef:
        raise UserError(
            f"diversity.coef: expected 0, got {config.diversity.coef:g} (not built for {name},"
            " which is off-policy)"
        )
    if config.learner.ranks > 1:
        raise UserError(
            f"learner.ranks: expected 1, got {config.learner.ranks} (not built for {name}, which is"
            " off-policy)"
        )
    if config.env.state_type == "FP" and spec.state_image:
        raise UserError(f"env.state_type: expected EP, got FP ({name}, whose state is an image)")
    if spec.continuous and not spec.action_bounds:
        raise UserError(f"algo.name: {name} needs actions with bounds, which {spec.name} has not")
    if config.train.steps:
        _check_replay(config, spec)


def _check_replay(config: Config, spec: EnvSpec) -> None:
    train = config.train
    least = 2 * train.rollout_steps
    size = config.algo.buffer_size
    if size < least:
        raise UserError(
            f"algo.buffer_size: expected {least:,} or more (two rollouts of train.rollout x"
            f" train.envs), got {size:,}"
        )
    if config.algo.buffer_folder != "none":
        return  # whose file system is asked when the file is made
    # Of entries as few as possible: two of one environment.
    few = Replay(spec, capacity=2, envs=1, obs_dtype=config.algo.buffer_dtype)
    check_fits("algo.buffer_size", few.nbytes / 2 * size, f"a replay of {size:,} steps")
