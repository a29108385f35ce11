"""Small problems with known answers, played without environments or executors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sde_harl.algorithms.registry import ALGORITHMS
from sde_harl.auxiliary.device import HOST, Device
from sde_harl.auxiliary.peers import ALONE, Peers
from sde_harl.buffers.rollout import Rollout
from sde_harl.config.schema import AlgoConfig, CodecConfig, Config, PolicyConfig, TrainConfig
from sde_harl.draws.counters import Draw, Purpose
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.critic import Critic
from sde_harl.policy.critic_input import make_critic_input
from sde_harl.policy.split_policy import SplitPolicy


def spec(actions: tuple[tuple[int, ...], ...], obs: int, continuous: bool = False) -> EnvSpec:
    """Agents of `obs` observations and a state as large; `actions` as in `EnvSpec.action_sizes`."""
    n = len(actions)
    names = tuple(f"agent_{k}" for k in range(n))
    return EnvSpec(
        name="test/game",
        agents=names,
        obs_sizes=(obs,) * n,
        action_sizes=actions,
        state_size=obs,
        episode_limit=1,
        continuous=continuous,
        unit_types=("",) * n,
        has_win=False,
        action_bounds=tuple(((-1.0, 1.0),) * dimensions for (dimensions,) in actions)
        if continuous
        else (),
    )


def replay_learner(
    game: EnvSpec,
    name: str,
    codec: str = "float32",
    *,
    seed: int = 0,
    envs: int = 64,
    state_type: str = "EP",
    groups: tuple[tuple[int, ...], ...] = (),
    **algo: Any,
) -> Any:
    """An off-policy algorithm by name, with small nets; `algo` as in AlgoConfig."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    small = {"batch_size": 128, "warmup_steps": 0, "buffer_size": 64 * envs, "valuenorm": False}
    config = Config(
        algo=AlgoConfig(name=name, **{**small, **algo}),
        policy=PolicyConfig(
            blocks=2, local_blocks=1, width=16, latent=4, groups=groups, critic_width=32
        ),
        codec=CodecConfig(name=codec, rate_rows=32),
        train=TrainConfig(envs=envs, slots=1, rollout=1),
    )
    kind = ALGORITHMS[name]
    policy = SplitPolicy(
        spec=game,
        policy=config.policy,
        codec=config.codec,
        share=config.algo.share_param,
        generator=generator,
        heads=kind.heads(game),
    )
    return kind(
        policy=policy,
        spec=game,
        critic_input=make_critic_input(state_type, game),
        config=config,
        generator=generator,
    )


def learner(
    game: EnvSpec,
    name: str = "happo",
    codec: str = "entropy",
    seed: int = 0,
    recurrent: bool = False,
    groups: tuple[tuple[int, ...], ...] = (),
    peers: Peers = ALONE,
    device: Device = HOST,
    **algo: Any,
) -> Any:
    """An algorithm, by name in ALGORITHMS, with small nets; `algo` as in AlgoConfig."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    kind, config = ALGORITHMS[name], AlgoConfig(name=name, **algo)
    policy_config = PolicyConfig(
        blocks=2, local_blocks=1, width=16, latent=4, recurrent=recurrent, groups=groups
    )
    codec_config = CodecConfig(name=codec, rate_rows=32)
    policy = SplitPolicy(
        spec=game,
        policy=policy_config,
        codec=codec_config,
        share=config.share_param,
        generator=generator,
    )
    view = make_critic_input("own" if kind.decentralised_critic else "EP", game)
    critic = Critic(
        critic_input=view,
        policy=policy_config,
        share=config.share_param or not kind.decentralised_critic,
        generator=generator,
    )
    policy.to(device.device)
    critic.to(device.device)
    return kind(
        policy=policy,
        critic=critic,
        algo=config,
        codec=codec_config,
        generator=generator,
        peers=peers,
        device=device,
    )


def new_rollout(game: EnvSpec, envs: int, kind: str = "EP", steps: int = 1) -> Rollout:
    """Games of one step each, which end with it."""
    rollout = Rollout(
        game,
        steps=steps,
        envs=envs,
        latent_size=4,
        critic_input=make_critic_input(kind, game),
        keeps_final_obs=True,
    )
    rollout.available_actions[:] = game.choices()[:, None, None]
    rollout.active_masks[:], rollout.terminated[:] = True, True
    return rollout


def see(rollout: Rollout, obs: np.ndarray) -> None:
    """Show observations (N, E, O); the state is the first agent's."""
    rollout.obs[:, 0] = obs
    rollout.critic_inputs[:] = rollout.critic_input(obs[0], obs.swapaxes(0, 1))[:, None]


def see_all(rollout: Rollout, obs: np.ndarray) -> None:
    """Show observations (N, E, O); the state is all of them."""
    rollout.obs[:, 0] = obs
    rollout.critic_inputs[:] = np.concatenate(obs, -1)


def draw_by(generator: np.random.Generator, agents: int) -> Draw:
    """The random numbers of agents 0 to `agents` - 1 under a seed that the generator gives."""
    return Draw(
        seed=int(generator.integers(2**31)),
        purpose=Purpose.ACTING,
        step=0,
        first_environment=0,
        agents=np.arange(agents, dtype=np.int32),
    )


def act(policy: SplitPolicy, rollout: Rollout, generator: np.random.Generator | None) -> None:
    """Fills a rollout's actions as executors and server would, with torch's own latents."""
    n, steps, envs, _ = rollout.actions.shape
    latents = np.zeros((n, steps * envs, policy.shape.latent_max()), np.float32)
    for net in policy.groups:
        with torch.no_grad():
            obs = torch.from_numpy(rollout.obs[list(net.members)]).flatten(1, 2)
            latents[list(net.members)] = net.quantise(net.encode(net.normalise(obs))).numpy()
    decision = policy.acting().act(
        latents,
        rollout.available_actions.reshape(n, steps * envs, -1),
        draw_by(generator, n) if generator else None,
    )
    rollout.actions[:] = decision.actions.reshape(rollout.actions.shape)
    rollout.log_probs[:] = decision.log_probs.reshape(rollout.actions.shape)


def view_of(name: str) -> str:
    """Returns the kind of critic input of algorithm `name`."""
    return "own" if ALGORITHMS[name].decentralised_critic else "EP"
