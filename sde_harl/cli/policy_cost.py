"""What the parts of a split policy take: read from the record of a run, or measured here on nets that learnt nothing.

N agents, E rows (decisions) of a message, O observation, Z latent, A outputs of a head.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sde_harl.codec.registry import PLAIN, Codec, make_codec
from sde_harl.config.layers import from_yaml
from sde_harl.config.schema import CodecConfig, Config, PolicyConfig
from sde_harl.draws.counters import Draw, Purpose
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.meters.timing import now_ns
from sde_harl.policy.inference.local_nets import LocalNets
from sde_harl.policy.inference.on_device import OnDevicePolicy
from sde_harl.policy.shapes import local_shape, on_device_shape
from sde_harl.policy.split_policy import SplitPolicy
from sde_harl.record.reader import open_run

CALLS, WARM_UP = 200, 20
DEVICE = 0
"""The agent whose device is measured."""


class PolicyCost(NamedTuple):
    """One way to cut and code a policy, and what its parts take for a message: medians, in microseconds."""

    local_blocks: int
    codec: str
    """`none`: the policy is whole on its device."""
    rows: int
    """E, decisions in a message."""
    agents: int
    """N, whose messages the server waits for."""
    local_us: float
    encode_us: float
    decode_us: float
    """Of one agent's message."""
    policy_us: float
    """Of all agents'."""
    payload_bytes: float
    """Of a message, without the header."""


class MeasuredRun(NamedTuple):
    """A run's own medians, to hold a prediction against. Microseconds of a message; bytes of its payload."""

    device_us: float
    round_trip_us: float
    whole_us: float
    payload_bytes: float


def from_run(path: Path) -> tuple[PolicyCost, MeasuredRun]:
    """What a run's record says. Raises UserError where it holds no decisions or no times."""
    run = open_run(path)
    table = run.table("decisions")
    meta = {key: str(value) for key, value in run.meta.items()}
    if not table or "config" not in meta or "agents" not in meta:
        raise UserError(f"{path}: no decisions were recorded in this run (record.decisions)")
    policy, codec = from_yaml(meta["config"], f"{path} /meta").policy, meta["codec"]
    whole = codec == "none"
    local, encode, trip, decode, acting = (
        _known(table[f"t_{name}"], path, optional=whole and name != "local")
        for name in ("local", "encode", "round_trip", "decode", "policy")
    )
    rows, payload = int(np.median(table["environments"])), float(table["payload_bytes"].mean())
    part = PolicyCost(
        policy.local_blocks, codec, rows, len(json.loads(meta["agents"])),
        local_us=_median(local), encode_us=_median(encode), decode_us=_median(decode), policy_us=_median(acting),
        payload_bytes=payload,
    )  # fmt: skip
    return part, MeasuredRun(
        _median(local + encode), _median(trip), _median(local + encode + trip), payload
    )


def count(config: Config) -> int:
    """How many parts `measure` yields."""
    return config.policy.blocks * (1 + len(PLAIN)) + 1


def measure(config: Config, spec: EnvSpec) -> Iterator[PolicyCost]:
    """Every split and codec of `config`'s policy in turn, timed on this host in this process.

    The nets are as they are before training, the observations random: times are those of the real arrays and
    the real coder, bytes those of a policy whose rate has not been learnt.
    """
    torch.set_num_threads(1)
    blocks, obs = config.policy.blocks, _observations(config, spec)
    for local_blocks in range(blocks):
        policy = replace(config.policy, local_blocks=local_blocks)
        for codec in ("entropy", *PLAIN):
            yield _split_part(config, spec, policy, replace(config.codec, name=codec), obs)
    yield _whole_part(config, spec, replace(config.policy, local_blocks=blocks), obs)


def _observations(config: Config, spec: EnvSpec) -> np.ndarray:
    """(1, E, O) float32 of the device's agent, padded with zeros: bytes of images, or standard normal numbers."""
    generator = np.random.default_rng(config.seed)
    shape = (1, config.train.envs // config.train.slots, max(spec.obs_sizes))
    bytes_ = spec.obs_dtype == "uint8"
    obs = (
        generator.integers(0, 256, shape) if bytes_ else generator.standard_normal(shape)
    ).astype(np.float32)
    obs[:, :, spec.obs_sizes[DEVICE] :] = 0.0
    return obs


def _split_part(
    config: Config, spec: EnvSpec, policy: PolicyConfig, codec: CodecConfig, obs: np.ndarray
) -> PolicyCost:
    made = _made(config, spec, policy, codec)
    shape = local_shape(agents=(DEVICE,), spec=spec, policy=policy)
    agents, rows = len(spec.agents), obs.shape[1]
    nets = LocalNets(
        shape, np.concatenate([each.ravel() for each in made.local_parameters()[DEVICE]])
    )
    [size] = shape.latent_sizes()
    tables = made.build_tables(1)[DEVICE] if codec.name == "entropy" else None
    coder: Codec = make_codec(codec.name, size, tables=tables, pack=codec.pack)
    latents = np.zeros((agents, rows, shape.latent_max()), np.float32)
    z = nets(obs)[0, :, :size]
    payload = coder.encode(z)
    coder.decode(payload, latents[DEVICE, :, :size])
    acting = made.acting()
    draw = Draw(config.seed, Purpose.ACTING, 0, 0, np.arange(agents, dtype=np.int32))
    available = np.ones((agents, rows, sum(spec.branches)), np.bool_)
    return PolicyCost(
        policy.local_blocks, codec.name, rows, agents,
        local_us=_time(nets, obs),
        encode_us=_time(coder.encode, z),
        decode_us=_time(coder.decode, payload, latents[DEVICE, :, :size]),
        policy_us=_time(acting.act, latents, available, draw),
        payload_bytes=len(payload),
    )  # fmt: skip


def _whole_part(config: Config, spec: EnvSpec, policy: PolicyConfig, obs: np.ndarray) -> PolicyCost:
    made = _made(config, spec, policy, replace(config.codec, name="none"))
    flat = np.concatenate([each.ravel() for each in made.local_parameters()[DEVICE]])
    shape = on_device_shape(spec=spec, policy=policy, seed=config.seed)
    assert shape  # the caller has made all blocks local
    rows = obs.shape[1]
    device = OnDevicePolicy(
        shape=local_shape(agents=(DEVICE,), spec=spec, policy=policy), on_device=shape, weights=flat
    )
    available = np.ones((1, rows, sum(spec.branches)), np.bool_)
    decision = device.act(obs, available, None)
    done = decision.actions.nbytes + decision.log_probs.nbytes
    local = _time(device.act, obs, available, None)
    return PolicyCost(
        policy.local_blocks, "none", rows, len(spec.agents), local, 0.0, 0.0, 0.0, done
    )


def _made(config: Config, spec: EnvSpec, policy: PolicyConfig, codec: CodecConfig) -> SplitPolicy:
    generator = torch.Generator().manual_seed(config.seed)
    return SplitPolicy(
        spec=spec,
        policy=policy,
        codec=codec,
        share=config.algo.share_param,
        generator=generator,
    )


def _time(act: Callable[..., object], *arguments: Any) -> float:
    """Median microseconds of a call."""
    taken_ns = np.empty(CALLS + WARM_UP)
    for call in range(len(taken_ns)):
        started = now_ns()
        act(*arguments)
        taken_ns[call] = now_ns() - started
    return _median(taken_ns[WARM_UP:]) / 1000.0


def _known(nanoseconds: np.ndarray, path: Path, optional: bool) -> np.ndarray:
    """Microseconds (K,), NaN where unknown (0 or less), or zeros of a stage that the run has not."""
    if optional:
        return np.zeros(len(nanoseconds))
    if not (nanoseconds > 0).any():
        raise UserError(f"{path}: no times were measured in this run")
    return np.where(nanoseconds > 0, nanoseconds / 1000.0, np.nan)


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values))
