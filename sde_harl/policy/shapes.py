"""Sizes of the networks, computed from the environment's spec and the configuration, without torch.

    ConvShape      the convolution before the first block, where observations are images
    LocalShape     the local nets of some agents
    OnDeviceShape  the layers behind the local nets, where a policy runs entirely on its device
    FallbackShape  the fallback heads, which act on a device when the server doesn't answer

The server sizes its messages by these shapes and tells them to the executors once, so this module
imports nothing that an edge device lacks: the configuration's types are only named.

n agents, O observation (padded to the largest of the run), W width of a block, Z latent, H memory
of a GRU, A outputs of a head, D numbers of an action; H, W, C, K, F of images as in
inference/conv.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sde_harl.errors import UserError

if TYPE_CHECKING:
    from sde_harl.config.schema import PolicyConfig
    from sde_harl.envs.base import EnvSpec


SAMPLED = "sampled"
CHOICES = "choices"
VALUES = "values"
SQUASHED = "squashed"
BOUNDED = "bounded"
HEADS = (SAMPLED, CHOICES, VALUES, SQUASHED, BOUNDED)
"""Kinds of heads: what their outputs mean. `sampled` is every on-policy algorithm's; the others
explore, and inference/exploring.py explains them."""


class ConvShape(NamedTuple):
    """Sizes of a convolution without padding, followed by ReLU."""

    height: int
    width: int
    channels: int
    filters: int
    kernel: int
    stride: int

    def size_in(self) -> int:
        """Returns the numbers of one image, H W C."""
        return self.height * self.width * self.channels

    def size_window(self) -> int:
        """Returns the numbers that a filter sees at once, K K C."""
        return self.kernel * self.kernel * self.channels

    def size_out(self) -> int:
        """Returns the numbers that come out for one image: positions of the window times F."""
        rows = (self.height - self.kernel) // self.stride + 1
        columns = (self.width - self.kernel) // self.stride + 1
        return rows * columns * self.filters


class LocalShape(NamedTuple):
    """Sizes of the local nets of `len(obs_sizes)` agents."""

    obs_sizes: tuple[int, ...]
    """(n,) observation size of each agent."""
    obs: int
    """O, the padded observation size of the run: the same on every executor, because a
    matrix product of another width may add its terms in another order and round differently."""
    width: int
    latent: int
    local_blocks: int
    feature_norm: bool
    layer_norm: bool = False
    conv: ConvShape | None = None
    """The convolution before the first block; None where the device has none."""
    pixels: bool = False
    """True where observations are bytes, 0 to 255; False where they are float32."""

    def obs_dtype(self) -> np.dtype[Any]:
        """Returns the type of observations on the wire."""
        if self.pixels:
            return np.dtype("u1")
        return np.dtype("<f4")

    def size_in(self) -> int:
        """Returns the numbers that the first block takes."""
        if self.conv:
            return self.conv.size_out()
        return self.obs

    def latent_sizes(self) -> tuple[int, ...]:
        """Returns (n,) numbers each agent sends: Z, or its observation where it has no block."""
        if self.local_blocks:
            return (self.latent,) * len(self.obs_sizes)
        return self.obs_sizes

    def latent_max(self) -> int:
        """Returns the padded size of a latent: Z, or O where there is no local block."""
        if self.local_blocks:
            return self.latent
        return self.obs


class OnDeviceShape(NamedTuple):
    """Describes policies that run entirely on a device, beside its `LocalShape`."""

    branches: tuple[int, ...]
    """The layout of an action, as in `EnvSpec`."""
    continuous: bool
    seed: int
    """Seed of the run, by which actions are drawn."""
    memory: int = 0
    """H, 0 where the policies are not recurrent."""
    heads: str = SAMPLED
    """What the outputs mean, one of HEADS."""

    def outputs(self) -> int:
        """Returns A, the numbers that a head gives."""
        return head_outputs(self.branches, self.heads)


class ServerShape(NamedTuple):
    """Describes rank 0's part of the policies: what stands between decoded latents and actions."""

    agents: int
    size_in: int
    """Numbers that the first block of the trunk takes."""
    width: int
    blocks: int
    """Blocks of the trunk, 0 where the policies run on their devices."""
    conv: ConvShape | None
    """The convolution before the trunk, where latents are images."""
    layer_norm: bool
    behind: OnDeviceShape
    """What follows the trunk, as it follows the local nets of policies on devices."""


class FallbackShape(NamedTuple):
    """Describes the fallback heads of a device's agents."""

    branches: tuple[int, ...]
    """The layout of an action, as in `EnvSpec`."""
    continuous: bool
    wait_s: float
    """Silence of the server after which a device with actuators of its own acts by itself."""


def head_outputs(branches: tuple[int, ...], heads: str) -> int:
    """Returns the numbers that a head of the kind `heads` gives to act with."""
    if heads == SQUASHED:
        return 2 * len(branches)
    return sum(branches)


# ---- from the configuration ----


def role_groups(
    groups: tuple[tuple[int, ...], ...], *, agents: int, share: bool
) -> tuple[tuple[int, ...], ...]:
    """Returns the role groups of a run, each a tuple of agent indices.

    `groups` are the configuration's. Without any, all agents are one group where they `share`
    parameters, else every agent is a group of its own. Raises UserError where the groups don't hold
    each of the `agents` exactly once.
    """
    if groups and sorted(agent for group in groups for agent in group) != list(range(agents)):
        raise UserError(
            f"policy.groups: this environment has {agents} agents, 0 to {agents - 1}, "
            "each in one group"
        )
    if groups:
        return groups
    if share:
        return (tuple(range(agents)),)
    return tuple((agent,) for agent in range(agents))


def runs_on_device(policy: PolicyConfig) -> bool:
    """Returns True where all blocks are local: the device then computes all of the policy."""
    return policy.local_blocks == policy.blocks


def conv_shape(images: tuple[tuple[int, ...], ...], policy: PolicyConfig) -> ConvShape | None:
    """Returns the shape of the convolution before the first block, for images of (H, W, C) each.

    Returns None where there are no images or the configuration turns the convolution off. Raises
    UserError where the images differ or are smaller than the kernel.
    """
    if not images or not policy.conv_channels:
        return None
    _check_images(images, policy.conv_kernel)
    height, width, channels = images[0]
    return ConvShape(
        height=height,
        width=width,
        channels=channels,
        filters=policy.conv_channels,
        kernel=policy.conv_kernel,
        stride=policy.conv_stride,
    )


def _check_images(images: tuple[tuple[int, ...], ...], kernel: int) -> None:
    """Raises UserError where the images differ in shape, or are smaller than the kernel."""
    # The convolutions of all agents are computed as one product.
    if len(set(images)) > 1:
        shapes = ", ".join("x".join(map(str, image)) for image in sorted(set(images)))
        raise UserError(
            f"policy.conv_channels: the agents' images differ ({shapes}); "
            "0 takes them as plain numbers"
        )
    height, width, _ = images[0]
    if kernel > min(height, width):
        raise UserError(f"policy.conv_kernel: {kernel} is larger than images of {height}x{width}")


def local_shape(*, agents: tuple[int, ...], spec: EnvSpec, policy: PolicyConfig) -> LocalShape:
    """Returns the shape of the local nets of `agents` (indices into spec.agents)."""
    conv = conv_shape(spec.obs_images, policy)
    return LocalShape(
        obs_sizes=tuple(spec.obs_sizes[agent] for agent in agents),
        obs=max(spec.obs_sizes),
        width=policy.width,
        latent=_latent_size(policy),
        local_blocks=policy.local_blocks,
        # HARL's CNNBase normalises no features either; bytes are divided by 255 instead.
        feature_norm=policy.feature_norm and not conv,
        layer_norm=policy.layer_norm,
        # Without a local block the images themselves are sent to the server's convolution.
        conv=conv if policy.local_blocks else None,
        pixels=spec.obs_dtype == "uint8",
    )


def _latent_size(policy: PolicyConfig) -> int:
    if runs_on_device(policy):
        return policy.width  # nothing is sent, so nothing is made narrower
    return policy.latent or policy.width


def on_device_shape(
    *,
    spec: EnvSpec,
    policy: PolicyConfig,
    seed: int,
    heads: str = SAMPLED,
) -> OnDeviceShape | None:
    """Returns the shape of policies that run on their devices; None where they are split.

    `heads` is the algorithm's.
    """
    if not runs_on_device(policy):
        return None
    return _behind(spec=spec, policy=policy, seed=seed, heads=heads)


def server_shape(*, spec: EnvSpec, policy: PolicyConfig, heads: str) -> ServerShape:
    """Returns the shape of rank 0's part of the policies; `heads` is the algorithm's."""
    agents = tuple(range(len(spec.agents)))
    conv = server_conv_shape(spec, policy)
    size_in = local_shape(agents=agents, spec=spec, policy=policy).latent_max()
    if conv:
        size_in = conv.size_out()
    return ServerShape(
        agents=len(agents),
        size_in=size_in,
        width=policy.width,
        blocks=policy.blocks - policy.local_blocks,
        conv=conv,
        layer_norm=policy.layer_norm,
        # Nothing is drawn by it, so its seed means nothing.
        behind=_behind(spec=spec, policy=policy, seed=0, heads=heads),
    )


def server_conv_shape(spec: EnvSpec, policy: PolicyConfig) -> ConvShape | None:
    """Returns the shape of the trunk's convolution; None unless images themselves are sent."""
    if policy.local_blocks:
        return None
    return conv_shape(spec.obs_images, policy)


def _behind(*, spec: EnvSpec, policy: PolicyConfig, seed: int, heads: str) -> OnDeviceShape:
    """Returns the shape of what follows the last block of a policy."""
    memory = 0
    if policy.recurrent:
        memory = policy.width
    return OnDeviceShape(
        branches=spec.branches,
        continuous=spec.continuous,
        seed=seed,
        memory=memory,
        heads=heads,
    )


def fallback_shape(*, spec: EnvSpec, policy: PolicyConfig, wait_s: float) -> FallbackShape | None:
    """Returns the shape of the fallback heads; None where the configuration asks for none."""
    if not policy.fallback_head:
        return None
    return FallbackShape(branches=spec.branches, continuous=spec.continuous, wait_s=wait_s)


# ---- parameters in the order in which they travel ----


def local_parameter_shapes(shape: LocalShape) -> list[tuple[int, ...]]:
    """Returns the shapes of the local nets' parameters in wire order.

    (n, in, out) and (n, out) of each block; gain and shift (n, O) where there is no block. A
    convolution's come first, (n, K K C, F) and (n, F).
    """
    n = len(shape.obs_sizes)
    if not shape.local_blocks:
        return [(n, shape.obs), (n, shape.obs)]
    # The last local block ends in the latent, which may be narrower than the others.
    widths = [shape.size_in()] + [shape.width] * (shape.local_blocks - 1) + [shape.latent]
    pairs = list(zip(widths[:-1], widths[1:]))
    if shape.conv:
        pairs.insert(0, (shape.conv.size_window(), shape.conv.filters))
    shapes: list[tuple[int, ...]] = []
    for size_in, size_out in pairs:
        shapes += [(n, size_in, size_out), (n, size_out)]
    return shapes


def on_device_parameter_shapes(
    shape: LocalShape, on_device: OnDeviceShape
) -> list[tuple[int, ...]]:
    """Returns the shapes of the parameters behind the local nets of policies on their devices.

    In wire order: the GRU's if there is one, as in `GruArrays`; the heads' (n, H or W, A) and
    (n, A); deviations (n, D) if actions are continuous. Policies that explore have three arrays
    instead of the deviations, as in `Exploration`: (n, 2), (n, D) and (n, D).
    """
    return _shapes_behind(len(shape.obs_sizes), shape.width, on_device)


def server_parameter_shapes(shape: ServerShape) -> list[tuple[int, ...]]:
    """Returns the shapes of the parameters of rank 0's part of the policies, in wire order.

    The convolution's (N, K K C, F) and (N, F), (N, in, W) and (N, W) of each block of the trunk,
    then what follows, as in `on_device_parameter_shapes`.
    """
    n = shape.agents
    shapes: list[tuple[int, ...]] = []
    if shape.conv:
        shapes += [(n, shape.conv.size_window(), shape.conv.filters), (n, shape.conv.filters)]
    size_in = shape.size_in
    for _ in range(shape.blocks):
        shapes += [(n, size_in, shape.width), (n, shape.width)]
        size_in = shape.width
    return shapes + _shapes_behind(n, shape.width, shape.behind)


def _shapes_behind(n: int, width: int, on_device: OnDeviceShape) -> list[tuple[int, ...]]:
    outputs = on_device.outputs()
    memory = on_device.memory
    shapes: list[tuple[int, ...]] = []
    if memory:
        shapes += [(n, width, 3 * memory), (n, 3 * memory)]
        shapes += [(n, memory, 3 * memory), (n, 3 * memory)]
    # The heads take the GRU's memory if there is one, else the last block's output.
    shapes += [(n, memory or width, outputs), (n, outputs)]
    dimensions = len(on_device.branches)
    if on_device.heads != SAMPLED:
        shapes += [(n, 2), (n, dimensions), (n, dimensions)]
    elif on_device.continuous:
        shapes.append((n, dimensions))
    return shapes


def fallback_parameter_shapes(shape: LocalShape, fallback: FallbackShape) -> list[tuple[int, ...]]:
    """Returns the shapes of the fallback heads' parameters in wire order: (n, Z, A) and (n, A)."""
    n = len(shape.obs_sizes)
    outputs = sum(fallback.branches)
    return [(n, shape.latent_max(), outputs), (n, outputs)]


def device_parameter_shapes(
    shape: LocalShape, *, on_device: OnDeviceShape | None, fallback: FallbackShape | None
) -> list[tuple[int, ...]]:
    """Returns the shapes of all parameters that an executor is sent, in wire order."""
    parameters = local_parameter_shapes(shape)
    if fallback:
        return parameters + fallback_parameter_shapes(shape, fallback)
    if on_device:
        return parameters + on_device_parameter_shapes(shape, on_device)
    return parameters
