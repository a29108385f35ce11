"""Makes everything that learns: policy, critic, algorithm and what is learnt beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sde_harl.algorithms.on_policy.base import OnPolicy
from sde_harl.auxiliary.distillation import Distillation
from sde_harl.auxiliary.diversity import Diversity
from sde_harl.auxiliary.rate_control import RateControl
from sde_harl.config.schema import Config
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.critic import Critic
from sde_harl.policy.critic_input import CriticInput, make_critic_input
from sde_harl.policy.split_policy import SplitPolicy
from sde_harl.roles.grouping import Roles


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The parts that learn, and what they need for it."""

    policy: SplitPolicy
    algorithm: OnPolicy
    critic_input: CriticInput
    """How the critic's inputs are made."""
    rate_control: RateControl
    diversity: Diversity | None
    """The intrinsic reward; None without one."""
    fallback: Distillation | None
    """The fallback heads; None without them."""
    generator: torch.Generator
    """What all of them draw from while they learn."""


def build_learned(
    config: Config,
    spec: EnvSpec,
    algorithm_class: type[OnPolicy],
    *,
    roles: Roles,
    generator: torch.Generator,
) -> Learned:
    """Returns everything that learns. Raises UserError where parts don't fit the environment."""
    # The order of these constructors is the order in which they draw from the generator, so that
    # another order would give every run other weights.
    share = config.algo.share_param
    # The groups of the configuration may have been replaced, by types or by learnt roles.
    nets = replace(config.policy, groups=roles.groups)
    policy = SplitPolicy(
        spec=spec, policy=nets, codec=config.codec, share=share, generator=generator
    )
    kind = "own" if algorithm_class.decentralised_critic else config.env.state_type
    critic_input = make_critic_input(kind, spec)
    # Of one state all agents share a critic; what only its agent sees may need one for each.
    one_critic = share or not algorithm_class.decentralised_critic
    critic = Critic(
        critic_input=critic_input, policy=config.policy, share=one_critic, generator=generator
    )
    algorithm = algorithm_class(
        policy=policy,
        critic=critic,
        algo=config.algo,
        codec=config.codec,
        generator=generator,
    )
    diversity = None
    if config.diversity.coef:
        diversity = Diversity(
            policy=policy, spec=spec, config=config.diversity, generator=generator
        )
    # It draws nothing from the generator: with it the policies learn as without.
    fallback = None
    if config.policy.fallback_head:
        fallback = Distillation(policy, spec, config.seed)
    return Learned(
        policy=policy,
        algorithm=algorithm,
        critic_input=critic_input,
        rate_control=RateControl(config.codec),
        diversity=diversity,
        fallback=fallback,
        generator=generator,
    )
