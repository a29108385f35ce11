"""Makes everything that learns: policy, critic, algorithm and what is learnt beside them."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from sde_harl.algorithms.algorithm import Algorithm
from sde_harl.algorithms.off_policy.base import OffPolicy
from sde_harl.algorithms.on_policy.base import OnPolicy
from sde_harl.auxiliary.device import HOST, Device
from sde_harl.auxiliary.distillation import Distillation
from sde_harl.auxiliary.diversity import Diversity
from sde_harl.auxiliary.peers import ALONE, Peers
from sde_harl.auxiliary.rate_control import RateControl
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import Config
from sde_harl.draws.counters import Purpose, derived_seed
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.meters.memory import check_fits
from sde_harl.policy.critic import Critic
from sde_harl.policy.critic_input import CriticInput, make_critic_input
from sde_harl.policy.products import use_fastest_products
from sde_harl.policy.split_policy import SplitPolicy
from sde_harl.roles.grouping import Roles

NUMBER_BYTES = 4 * 4


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The parts that learn, and what they need for it."""

    policy: SplitPolicy
    """On the host: what is published, saved and loaded."""
    algorithm: Algorithm
    critic_input: CriticInput
    """How the critic's inputs are made."""
    rate_control: RateControl
    diversity: Diversity | None
    """The intrinsic reward; None without one."""
    fallback: Distillation | None
    """The fallback heads; None without them."""
    generator: torch.Generator
    """What all of them draw from while they learn."""
    device: Device = HOST
    """Where the algorithm has its own copy of the policy, if it isn't the host."""

    def update(self, rollout: Rollout, progress: float) -> dict[str, float]:
        """Updates policy and critic from a rollout; returns scalars to log."""
        learning = self.algorithm.policy
        self.device.take_over(learning, self.policy)
        scalars = self.algorithm.update(rollout, progress)
        self.device.give_back(learning, self.policy)
        return scalars


def build_learned(
    config: Config,
    spec: EnvSpec,
    algorithm_class: type[Algorithm],
    *,
    roles: Roles,
    generator: torch.Generator,
    peers: Peers = ALONE,
    device: Device | None = None,
) -> Learned:
    """Returns everything that learns, and shares its updates with `peers`.

    `device`: the one that learns; None for the one that the configuration names.

    Raises UserError where parts don't fit the environment, or into the memory.
    """
    _check_memory(config)
    # The order of these constructors is the order in which they draw from the generator, so that
    # another order would give every run other weights.
    policy = SplitPolicy(
        spec=spec,
        # Environment types or learnt roles may have replaced the configured groups.
        policy=config.policy.model_copy(update={"groups": roles.groups}),
        codec=config.codec,
        share=config.algo.share_param,
        generator=generator,
        heads=algorithm_class.heads(spec),
    )
    critic_input = make_critic_input(critic_kind(config, algorithm_class), spec)
    device = device or learning_device(config, algorithm_class)
    learning = policy
    if not device.is_host:
        learning = copy.deepcopy(policy).to(device.device)
    return Learned(
        policy=policy,
        algorithm=_algorithm(
            algorithm_class,
            config,
            spec,
            policy=learning,
            critic_input=critic_input,
            generator=generator,
            peers=peers,
            device=device,
        ),
        critic_input=critic_input,
        rate_control=RateControl(config.codec),
        diversity=_diversity(config, spec, policy, generator=generator),
        fallback=_fallback(config, spec, policy),
        generator=generator,
        device=device,
    )


def learning_device(config: Config, algorithm_class: type[Algorithm]) -> Device:
    """Returns the device that learns. Raises UserError where it can't."""
    if not config.train.steps:
        return HOST  # it only plays, perhaps on another machine than the one that learnt
    asked = config.learner.device
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise UserError("learner.device: expected cpu or auto, got cuda (torch finds no GPU here)")
    if asked == "cuda" and algorithm_class.replays:
        raise UserError(
            f"learner.device: expected cpu, got cuda (not built for {config.algo.name}, which is"
            " off-policy)"
        )
    if asked == "cpu" or not there or algorithm_class.replays:
        return HOST
    return Device("cuda")


def prepare_torch() -> None:
    """Has torch compute as all learners of a run do."""
    # A policy that is sure of its actions has many denormal numbers, which are slow.
    torch.set_flush_denormal(True)
    use_fastest_products()


def first_generator(seed: int) -> torch.Generator:
    """Returns the generator of the first weights; every update seeds it anew."""
    # CompressAI draws its initial densities from torch's global generator.
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(derived_seed(seed, Purpose.INITIALISATION))


def critic_kind(config: Config, algorithm_class: type[Algorithm]) -> str:
    """Returns what the critic is shown, as `CriticInput` names it."""
    if algorithm_class.decentralised_critic:
        return "own"
    return config.env.state_type


def _algorithm(
    algorithm_class: type[Algorithm],
    config: Config,
    spec: EnvSpec,
    *,
    policy: SplitPolicy,
    critic_input: CriticInput,
    generator: torch.Generator,
    peers: Peers,
    device: Device,
) -> Algorithm:
    """Returns the algorithm with its critic."""
    if issubclass(algorithm_class, OffPolicy):
        return algorithm_class(
            policy=policy,
            spec=spec,
            critic_input=critic_input,
            config=config,
            generator=generator,
        )
    assert issubclass(algorithm_class, OnPolicy)
    critic = Critic(
        critic_input=critic_input,
        policy=config.policy,
        # All agents share a critic of one state; critics of each agent's own view may differ.
        share=config.algo.share_param or not algorithm_class.decentralised_critic,
        generator=generator,
    ).to(device.device)
    return algorithm_class(
        policy=policy,
        critic=critic,
        algo=config.algo,
        codec=config.codec,
        generator=generator,
        peers=peers,
        device=device,
    )


def _check_memory(config: Config) -> None:
    """Raises UserError for nets that are too large, even if all agents share one."""
    policy = config.policy
    # A number of a net comes with its gradient and two moments of Adam.
    inner = policy.width**2 * (policy.blocks - 1)
    check_fits("policy.width", NUMBER_BYTES * inner, f"a net of {policy.blocks} such blocks")
    coding = 2 * policy.width * policy.latent
    check_fits("policy.latent", NUMBER_BYTES * coding, f"a latent beside blocks of {policy.width}")
    critic = policy.critic_width**2 * (policy.critic_blocks - 1)
    what = f"a critic of {policy.critic_blocks} such blocks"
    check_fits("policy.critic_width", NUMBER_BYTES * critic, what)
    if config.diversity.coef:
        predictor = config.diversity.width**2
        check_fits("diversity.width", NUMBER_BYTES * predictor, "a predictor of two such layers")


def _diversity(
    config: Config, spec: EnvSpec, policy: SplitPolicy, *, generator: torch.Generator
) -> Diversity | None:
    if not config.diversity.coef:
        return None
    return Diversity(policy=policy, spec=spec, config=config.diversity, generator=generator)


def _fallback(config: Config, spec: EnvSpec, policy: SplitPolicy) -> Distillation | None:
    if not config.policy.fallback_head:
        return None
    # It gets no generator and draws from its own, so the policies learn the same as without it.
    return Distillation(policy, spec, config.seed)
