"""The policy: numpy twins equal the torch nets, masks hold, sampling follows the probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from games import draw_by, replay_learner, spec

from sde_harl.config.schema import CodecConfig, PolicyConfig
from sde_harl.envs.base import EnvSpec
from sde_harl.policy.all_agents import AllAgents
from sde_harl.policy.group_net import SubstitutedLatents
from sde_harl.policy.gru import RecurrentState
from sde_harl.policy.inference.acting import ActingPolicy
from sde_harl.policy.inference.local_nets import LocalNets
from sde_harl.policy.inference.on_device import OnDevicePolicy
from sde_harl.policy.shapes import OnDeviceShape
from sde_harl.policy.split_policy import SplitPolicy

SPEC = EnvSpec(
    name="test/three",
    agents=("a", "b", "c"),
    obs_sizes=(5, 9, 7),
    action_sizes=((4,), (3,), (4,)),
    state_size=6,
    episode_limit=10,
    continuous=False,
    unit_types=("x", "y", "x"),
    has_win=False,
)


IDENTITY = (np.eye(2, dtype=np.float32)[None], np.zeros((1, 1, 2), np.float32))
"""A block that changes nothing."""


def build(codec: str = "entropy", share: bool = False, **policy: object) -> SplitPolicy:
    net = SplitPolicy(
        spec=SPEC,
        policy=PolicyConfig(**policy),
        codec=CodecConfig(name=codec),
        share=share,
        generator=torch.Generator().manual_seed(3),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(
                0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
            )
    return net


def observations(rows: int) -> np.ndarray:
    obs = np.random.default_rng(0).normal(size=(3, rows, 9)).astype(np.float32)
    for agent, size in enumerate(SPEC.obs_sizes):
        obs[agent, :, size:] = 0
    return obs


def device_latents(net: SplitPolicy, obs: np.ndarray, agents: tuple[int, ...]) -> np.ndarray:
    parameters = net.local_parameters()
    flat = np.concatenate(
        [np.stack(each).ravel() for each in zip(*(parameters[agent] for agent in agents))]
    )
    shape = net.shape._replace(obs_sizes=tuple(net.shape.obs_sizes[agent] for agent in agents))
    return LocalNets(shape, flat)(obs[list(agents)])


def torch_outputs(net: SplitPolicy, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    latents, logits = [None] * 3, [None] * 3
    for group in net.groups:
        with torch.no_grad():
            output = group(group.normalise(torch.from_numpy(obs[list(group.members)])))
        for row, agent in enumerate(group.members):
            latents[agent], logits[agent] = output.latents[row].numpy(), output.outputs[row].numpy()
    return np.stack(latents), np.stack(logits)


@pytest.mark.parametrize("groups", [(), ((0, 2), (1,)), ((1, 0, 2),)])
@pytest.mark.parametrize("local_blocks", [0, 1, 2])
@pytest.mark.parametrize("share", [False, True])
def test_numpy_twins_equal_the_torch_nets(
    share: bool, groups: tuple[tuple[int, ...], ...], local_blocks: int
) -> None:
    sizes = {"width": 8, "latent": 4, "blocks": 4, "local_blocks": local_blocks}
    net, obs = (
        build("float32", share, groups=groups, layer_norm=not share, **sizes),
        observations(11),
    )
    latents, logits = torch_outputs(net, obs)
    mine = device_latents(net, obs, (0, 1, 2))
    np.testing.assert_allclose(mine, latents, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(net.acting().outputs(mine)[0], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
def test_the_numpy_twin_of_a_policy_on_its_device_equals_the_torch_net(
    recurrent: bool, share: bool, continuous: bool, layer_norm: bool
) -> None:
    spec, rng = SPEC._replace(continuous=continuous), np.random.default_rng(1)
    config = PolicyConfig(
        blocks=2, local_blocks=2, width=8, latent=3, layer_norm=layer_norm, recurrent=recurrent
    )
    net = SplitPolicy(
        spec=spec,
        policy=config,
        codec=CodecConfig(name="none"),
        share=share,
        generator=torch.Generator().manual_seed(3),
    )
    memory = rng.uniform(-1, 1, (3, 7, 8)).astype(np.float32) if recurrent else None
    obs = observations(7)
    on_device = OnDeviceShape(spec.branches, continuous, 1, 8 if recurrent else 0)
    flat = np.concatenate([np.stack(each).ravel() for each in zip(*net.local_parameters())])
    policy = OnDevicePolicy(shape=net.shape, on_device=on_device, weights=flat)
    available = np.broadcast_to(spec.choices()[:, None], (3, 7, 4))
    decision = policy.act(obs, available, None, memory)
    for group in net.groups:
        members = list(group.members)
        with torch.no_grad():
            recall = (
                None
                if memory is None
                else RecurrentState(torch.from_numpy(memory[members]), torch.ones(1, 7, 1))
            )
            outputs = group(group.normalise(torch.from_numpy(obs[members])), recall).outputs
            mask = torch.from_numpy(available[members].copy())
            taken = torch.from_numpy(decision.actions[members])
            log_probs = group.distribution(outputs, mask).log_probs(
                taken if continuous else taken.long()
            )
        np.testing.assert_allclose(
            decision.log_probs[members], log_probs.numpy(), rtol=1e-4, atol=1e-5
        )
    with pytest.raises(ValueError, match="expected"):
        OnDevicePolicy(shape=net.shape, on_device=on_device, weights=flat[:-1])


def test_an_executor_of_one_agent_computes_the_same_bits_as_one_of_all() -> None:
    net, obs = build(local_blocks=2, width=8, latent=4), observations(32)
    together = device_latents(net, obs, (0, 1, 2))
    for agent in range(3):
        assert np.array_equal(device_latents(net, obs, (agent,))[0], together[agent])


def test_padding_of_an_observation_changes_nothing() -> None:
    net, obs = build("float32", local_blocks=1, width=8, latent=4), observations(5)
    noisy = obs.copy()
    narrow = device_latents(net, obs, (0,))
    noisy[0, :, 5:] = 0.0
    assert np.array_equal(device_latents(net, noisy, (0,)), narrow)
    sent = device_latents(build("float32", local_blocks=0), obs, (0,))
    assert not sent[0, :, 5:].any()


def test_wrong_or_infinite_weights_are_refused() -> None:
    net = build(local_blocks=1)
    with pytest.raises(ValueError, match="expected"):
        LocalNets(net.shape, np.zeros(7, np.float32))
    flat = np.concatenate([np.stack(each).ravel() for each in zip(*net.local_parameters())])
    flat[3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        LocalNets(net.shape, flat)


def test_sampling_follows_the_probabilities_and_never_takes_a_masked_action() -> None:
    logits = np.log(np.array([0.5, 0.2, 0.3, 1.0], np.float32))
    policy = ActingPolicy(
        trunk=[IDENTITY],
        head_weight=np.zeros((1, 2, 4), np.float32),
        head_bias=logits[None, None],
        branches=(4,),
    )
    available = np.broadcast_to(np.array([True, True, True, False]), (1, 200_000, 4))
    decision = policy.act(
        np.zeros((1, 200_000, 2), np.float32), available, draw_by(np.random.default_rng(1), 1)
    )
    shares = np.bincount(decision.actions[0, :, 0], minlength=4) / 200_000
    np.testing.assert_allclose(shares, [0.5, 0.2, 0.3, 0.0], atol=0.005)
    np.testing.assert_allclose(
        np.exp(decision.log_probs[0]), np.array([0.5, 0.2, 0.3])[decision.actions[0]], rtol=1e-5
    )
    greedy = policy.act(np.zeros((1, 3, 2), np.float32), available[:, :3], None)
    assert greedy.actions.tolist() == [[[0], [0], [0]]]


@pytest.mark.parametrize(
    "words",
    [
        {"codec": "entropy", "groups": ((2, 0), (1,))},
        {"codec": "int8", "groups": ()},
        {"codec": "float32", "groups": ((1, 2), (0,)), "share_param": True},
    ],
)
def test_all_agents_at_once_are_every_group_by_itself(words: dict[str, Any]) -> None:
    algorithm = replay_learner(spec(((3,), (2,), (3,)), 4), "hasac", **words)
    for net in algorithm.policy.groups:
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    features = torch.randn(3, 7, 4)
    late = SubstitutedLatents(latents=torch.randn(3, 7, 4), stale=torch.rand(3, 7) < 0.5)
    nets = AllAgents(algorithm.policy.groups)
    for substituted in (None, late):
        torch.testing.assert_close(
            nets.outputs(features, substituted), nets._group_by_group(features, substituted)
        )
