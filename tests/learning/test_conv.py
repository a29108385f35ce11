"""Observations that are images.

The convolution equals torch's own and its numpy twin; a task that needs sight is learnt.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from games import spec
from playing import assert_equal, play
from torch import nn

from sde_harl.config.arguments import parse
from sde_harl.config.schema import CodecConfig, EnvConfig, PolicyConfig
from sde_harl.envs.registry import make
from sde_harl.errors import UserError
from sde_harl.executor.in_process import loopback
from sde_harl.policy.critic import Critic
from sde_harl.policy.critic_input import make_critic_input
from sde_harl.policy.inference.conv import ConvArrays
from sde_harl.policy.inference.local_nets import LocalNets
from sde_harl.policy.inference.on_device import OnDevicePolicy
from sde_harl.policy.layers import ConvLayer
from sde_harl.policy.shapes import ConvShape, OnDeviceShape
from sde_harl.policy.split_policy import SplitPolicy
from sde_harl.training.build import build
from sde_harl.training.trainer import Trainer

SEEKERS = EnvConfig(name="pettingzoo", factory="odd_envs:Seekers")
GAME = spec(((4,), (4,), (4,)), 5 * 6 * 2)._replace(obs_images=((5, 6, 2),) * 3, obs_dtype="uint8")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_convolution_is_torchs_own_and_so_is_its_numpy_twin(stride: int, k: int) -> None:
    shape = ConvShape(height=7, width=6, channels=2, filters=4, kernel=3, stride=stride)
    layer, images = (
        ConvLayer(k, shape, scale=1 / 255, generator=generator()),
        pixels(3, 5, shape.size_in()),
    )
    nn.init.normal_(layer.bias, generator=generator(1))
    told = layer(torch.from_numpy(images)).detach()
    assert told.shape == (3, 5, shape.size_out())
    for agent in range(3):
        reference = nn.Conv2d(2, 4, 3, stride)
        with torch.no_grad():
            weight = layer.weight[min(agent, k - 1)].view(3, 3, 2, 4)
            reference.weight.copy_(weight.permute(3, 2, 0, 1))
            reference.bias.copy_(layer.bias[min(agent, k - 1), 0])
            x = torch.from_numpy(images[agent]).view(5, 7, 6, 2).permute(0, 3, 1, 2) / 255
            expected = torch.relu(reference(x)).permute(0, 2, 3, 1).flatten(1)
        torch.testing.assert_close(told[agent], expected)
    weight, bias = (each.expand(3, -1, -1).detach().numpy() for each in layer.arrays())
    twin = ConvArrays(shape=shape, weight=weight, bias=bias)(images.astype(np.float32))
    np.testing.assert_allclose(twin, told.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [(), ((0, 2), (1,))])
@pytest.mark.parametrize("local_blocks", [0, 1, 2])
@pytest.mark.parametrize("share", [False, True])
def test_policies_that_see_act_as_they_learn(
    share: bool, local_blocks: int, groups: tuple[tuple[int, ...]]
) -> None:
    """The convolution is on the device, or at the server where images themselves are sent."""
    config = PolicyConfig(
        blocks=3, local_blocks=local_blocks, width=8, latent=4, groups=groups, conv_channels=4
    )
    policy = SplitPolicy(
        spec=GAME,
        policy=config,
        codec=CodecConfig(name="float32"),
        share=share,
        generator=generator(),
    )
    for index, parameter in enumerate(policy.parameters()):
        with torch.no_grad():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator(index)))
    obs = pixels(3, 7, 60)
    flat = np.concatenate([np.stack(each).ravel() for each in zip(*policy.local_parameters())])
    latents = LocalNets(policy.shape, flat)(obs.astype(np.float32))
    outputs = policy.acting().outputs(latents)[0]
    for net in policy.groups:
        members = list(net.members)
        with torch.no_grad():
            learnt = net(net.normalise(torch.from_numpy(obs[members])))
        np.testing.assert_allclose(latents[members], learnt.latents.numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(outputs[members], learnt.outputs.numpy(), rtol=1e-4, atol=1e-4)


def test_a_policy_with_images_on_its_device_acts_as_it_learns() -> None:
    config = PolicyConfig(blocks=2, local_blocks=2, width=8, conv_channels=4, head_gain=1.0)
    policy = SplitPolicy(
        spec=GAME, policy=config, codec=CodecConfig(name="none"), share=False, generator=generator()
    )
    flat = np.concatenate([np.stack(each).ravel() for each in zip(*policy.local_parameters())])
    obs, available = pixels(3, 7, 60), np.ones((3, 7, 4), bool)
    decision = OnDevicePolicy(
        shape=policy.shape, on_device=OnDeviceShape(GAME.branches, False, 1), weights=flat
    ).act(obs.astype(np.float32), available, None)
    for agent, net in enumerate(policy.groups):
        with torch.no_grad():
            outputs = net(torch.from_numpy(obs[agent : agent + 1])).outputs
        log_probs = outputs.log_softmax(-1).amax(-1).numpy()
        np.testing.assert_allclose(
            decision.log_probs[agent, :, 0], log_probs[0], rtol=1e-4, atol=1e-5
        )


def test_an_image_stays_bytes_until_a_convolution_sees_it() -> None:
    env = make(SEEKERS, num_envs=2, seed=1)
    assert (env.spec.obs_images, env.spec.obs_dtype) == (((5, 5, 2),) * 2, "uint8")
    assert (env.spec.state_image, env.spec.state_dtype) == ((5, 5, 4), "uint8")
    step = env.reset()
    assert step.obs.dtype == step.state.dtype == step.final_obs.dtype == np.uint8
    images = step.obs.reshape(2, 2, 5, 5, 2)
    assert (images.sum((2, 3)) == [255, 200]).all()
    np.testing.assert_array_equal(
        step.state.reshape(2, 5, 5, 4), np.concatenate([images[:, 0], images[:, 1]], -1)
    )


def test_channels_that_come_first_are_laid_last() -> None:
    last, first = (
        make(SEEKERS, num_envs=2, seed=1),
        make(EnvConfig(name="pettingzoo", factory="odd_envs:ChannelsFirst"), num_envs=2, seed=1),
    )
    assert (first.spec.obs_images, first.spec.obs_dtype) == (last.spec.obs_images, "float32")
    assert (first.spec.state_image, first.spec.state_dtype) == ((5, 5, 2), "float32")
    for one, other in zip(play(last, 10), play(first, 10)):
        np.testing.assert_allclose(one.obs / np.float32(255), other.obs)
        np.testing.assert_array_equal(other.state, other.obs[:, 0])


def test_worker_processes_play_the_same_images() -> None:
    here, there = (
        make(SEEKERS, num_envs=4, seed=3),
        make(EnvConfig(name="pettingzoo", factory=SEEKERS.factory, workers=2), num_envs=4, seed=3),
    )
    assert here.spec == there.spec
    for one, other in zip(play(here, 12), play(there, 12), strict=True):
        assert_equal(one, other)
    there.close()


def test_a_critic_sees_the_channels_of_the_state_and_of_the_agents_own_observation() -> None:
    env = make(SEEKERS, num_envs=3, seed=1)
    step = env.reset()
    both = make_critic_input("FP", env.spec)
    assert (both.image, both.dtype, both.sizes) == ((5, 5, 6), "uint8", (150, 150))
    seen = both(step.state, step.obs)
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(
        seen.reshape(2, 3, 25, 6)[..., :4], np.stack([step.state.reshape(3, 25, 4)] * 2)
    )
    np.testing.assert_array_equal(
        seen.reshape(2, 3, 25, 6)[1, ..., 4:], step.obs.reshape(3, 2, 25, 2)[:, 1]
    )
    assert make_critic_input("EP", env.spec).image == (5, 5, 4)
    assert make_critic_input("own", env.spec).image == (5, 5, 2)
    critic = Critic(critic_input=both, policy=PolicyConfig(), share=False, generator=generator())
    assert critic.weights[0].shape == (2, 3 * 3 * 32, 128)
    assert critic(critic.normalise(torch.from_numpy(seen)))[0].shape == (2, 3)


def test_a_state_that_is_no_image_is_seen_as_before() -> None:
    game = GAME._replace(state_size=7)
    both = make_critic_input("FP", game)
    assert (both.image, both.dtype, both.size) == ((), "float32", 67)
    assert both(np.ones((2, 7), np.float32), pixels(2, 3, 60)).dtype == np.float32
    assert (
        Critic(critic_input=both, policy=PolicyConfig(), share=True, generator=generator()).conv
        is None
    )


SMALL = [
    "--env",
    "pettingzoo",
    "train.envs=32",
    "train.rollout=12",
    "policy.blocks=2",
    "record.tensorboard=false",
]
SMALL += ["algo.chunk=6", "algo.lr=2e-3", "algo.critic_lr=2e-3", "codec.rate_rows=32"]


def run(folder: Path, *words: str) -> Path:
    config = parse([*SMALL, *words, f"record.dir={folder}"]).config
    assert config is not None
    learner = Trainer(build(config, loopback()))
    learner.run()
    return learner.logger.folder / "run.h5"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ["env.factory=odd_envs:Sizes"],
            r"policy\.conv_channels: the agents' images differ \(4x5x2, 5x5x2\)",
        ),
        (
            ["env.factory=odd_envs:Seekers", "policy.conv_kernel=6"],
            r"policy\.conv_kernel: 6 is larger than images of 5x5",
        ),
    ],
)
def test_images_that_cant_be_seen_are_named(words: list[str], named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named):
        run(tmp_path, "--algo", "happo", *words)


@pytest.mark.parametrize("factory", ["Sizes", "ChannelsFirst"])
def test_images_may_be_taken_as_plain_numbers(factory: str, tmp_path: Path) -> None:
    words = [
        f"env.factory=odd_envs:{factory}",
        "policy.conv_channels=0",
        "train.steps=768",
        "eval.episodes=0",
    ]
    with h5py.File(run(tmp_path, "--algo", "happo", *words, "env.state_type=FP")) as file:
        assert file["training"]["ratio_error"][:].max() < 1e-4


@pytest.mark.parametrize("name", ["happo", "mappo"])
def test_who_sees_finds_the_way(name: str, tmp_path: Path) -> None:
    """Six steps are worth 6 to who walks straight to the lamps, and 0 to who walks about."""
    words = [
        "--algo",
        name,
        "env.factory=odd_envs:Seekers",
        "train.steps=10240",
        "algo.gamma=0.5",
        "eval.interval=0",
    ]
    with h5py.File(run(tmp_path, *words)) as file:
        assert file["training"]["ratio_error"][:].max() < 1e-4, "what acted is not what is trained"
        assert file["evaluations"]["return_mean"][-1] > 5.0


@pytest.mark.parametrize("name", ["haa2c", "hatrpo", "ippo"])
@pytest.mark.parametrize("local_blocks", [0, 1])
def test_every_other_algorithm_sees_too(name: str, local_blocks: int, tmp_path: Path) -> None:
    words = ["--algo", name, "env.factory=odd_envs:Seekers", "train.steps=768", "eval.episodes=0"]
    with h5py.File(
        run(tmp_path, *words, f"policy.local_blocks={local_blocks}", "policy.recurrent=true")
    ) as file:
        assert file["training"]["ratio_error"][:].max() < 1e-4
