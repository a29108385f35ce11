"""The cost of the parts of a split policy: read from the record of a run, or measured here.

N agents, E rows (decisions) of a message, O observation, Z latent, A outputs of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sde_harl.analysis.each_run import of_run
from sde_harl.analysis.run_config import setting
from sde_harl.codec.registry import PLAIN, Codec, make_codec
from sde_harl.config.schema import Config
from sde_harl.draws.counters import Draw, Purpose
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError
from sde_harl.meters.timing import now_ns
from sde_harl.policy.inference.local_nets import LocalNets
from sde_harl.policy.inference.on_device import OnDevicePolicy
from sde_harl.policy.shapes import local_shape, on_device_shape
from sde_harl.policy.split_policy import SplitPolicy
from sde_harl.record.reader import Run, open_run

CALLS = 200
WARM_UP = 20
DEVICE = 0
"""The agent whose device is measured."""


class PolicyCost(NamedTuple):
    """One way to split and code a policy, and the median cost of its parts for a message."""

    local_blocks: int
    codec: str
    """"none" where the policy runs entirely on its device."""
    rows: int
    """E, decisions in a message."""
    agents: int
    """N, agents whose messages the server waits for."""
    local_us: float
    encode_us: float
    decode_us: float
    """Decoding of one agent's message."""
    policy_us: float
    """Group nets and heads of all agents."""
    payload_bytes: float
    """Size of a message without its header."""


class MeasuredRun(NamedTuple):
    """The medians that a run measured for a message, to compare an estimate with."""

    device_us: float
    round_trip_us: float
    latency_us: float
    payload_bytes: float


class RunCost(NamedTuple):
    """The contents of a run's record: the parts, and the whole."""

    cost: PolicyCost
    measured: MeasuredRun


def from_run(path: Path) -> RunCost:
    """Reads a run's record. Raises UserError where it holds no decisions or no times."""
    return of_run(open_run(path), _run_cost)


def _run_cost(run: Run) -> RunCost:
    path = run.path
    table = run.table("decisions")
    if not table:
        raise UserError(f"{path}: no decisions were recorded in this run (record.decisions)")
    rows = int(np.median(table["environments"]))
    if rows < 1:
        raise UserError(f"{path}: its messages hold no decisions")
    codec = run.codec
    # A policy that runs entirely on its device has no other stages.
    on_device = codec == "none"
    local = _microseconds(table["t_local"], path)
    encode = _microseconds(table["t_encode"], path, absent=on_device)
    round_trip = _microseconds(table["t_round_trip"], path, absent=on_device)
    decode = _microseconds(table["t_decode"], path, absent=on_device)
    acting = _microseconds(table["t_policy"], path, absent=on_device)
    payload_bytes = float(table["payload_bytes"].mean())
    cost = PolicyCost(
        local_blocks=setting(run, "policy.local_blocks", kind=int),
        codec=codec,
        rows=rows,
        agents=len(run.json_list("agents")),
        local_us=_median(local),
        encode_us=_median(encode),
        decode_us=_median(decode),
        policy_us=_median(acting),
        payload_bytes=payload_bytes,
    )
    measured = MeasuredRun(
        device_us=_median(local + encode),
        round_trip_us=_median(round_trip),
        latency_us=_median(local + encode + round_trip),
        payload_bytes=payload_bytes,
    )
    return RunCost(cost=cost, measured=measured)


def count(config: Config) -> int:
    """Returns the number of costs that `measure` yields."""
    return config.policy.blocks * (1 + len(PLAIN)) + 1


def measure(config: Config, spec: EnvSpec) -> Iterator[PolicyCost]:
    """Yields the cost of each split and codec of the policy, timed on this host in this process.

    The nets are untrained and the observations random. Times are those of the real arrays and the
    real coder; bytes are those of a policy whose rate has not been learnt.
    """
    torch.set_num_threads(1)
    obs = _observations(config, spec)
    blocks = config.policy.blocks
    for local_blocks in range(blocks):
        for codec in ("entropy", *PLAIN):
            yield _split_cost(_variant(config, local_blocks, codec), spec, obs)
    yield _on_device_cost(_variant(config, blocks, "none"), spec, obs)


def _variant(config: Config, local_blocks: int, codec: str) -> Config:
    policy = config.policy.model_copy(update={"local_blocks": local_blocks})
    coded = config.codec.model_copy(update={"name": codec})
    return config.model_copy(update={"policy": policy, "codec": coded})


def _observations(config: Config, spec: EnvSpec) -> NDArray[np.float32]:
    """Returns random observations (1, E, O) float32 of the device's agent, padded with zeros.

    They are bytes where the environment shows images, else standard normal numbers.
    """
    generator = np.random.default_rng(config.seed)
    shape = (1, config.train.envs // config.train.slots, max(spec.obs_sizes))
    if spec.obs_dtype == "uint8":
        obs = generator.integers(0, 256, shape).astype(np.float32)
    else:
        obs = generator.standard_normal(shape).astype(np.float32)
    obs[:, :, spec.obs_sizes[DEVICE] :] = 0.0
    return obs


def _split_cost(config: Config, spec: EnvSpec, obs: NDArray[np.float32]) -> PolicyCost:
    """Measures a policy that is split between device and server."""
    policy = _policy(config, spec)
    shape = local_shape(agents=(DEVICE,), spec=spec, policy=config.policy)
    nets = LocalNets(shape, _local_weights(policy))
    [size] = shape.latent_sizes()
    coder = _coder(config, policy, size)
    rows = obs.shape[1]
    latent = nets(obs)[0, :, :size]  # (E, Z)
    payload = coder.encode(latent)
    latents = np.zeros((len(spec.agents), rows, shape.latent_max()), np.float32)
    decoded = latents[DEVICE, :, :size]
    coder.decode(payload, decoded)
    acting = policy.acting()
    agents = np.arange(len(spec.agents), dtype=np.int32)
    draw = Draw(config.seed, Purpose.ACTING, 0, 0, agents)
    available = np.ones((len(spec.agents), rows, sum(spec.branches)), np.bool_)
    return PolicyCost(
        local_blocks=config.policy.local_blocks,
        codec=config.codec.name,
        rows=rows,
        agents=len(spec.agents),
        local_us=_time(nets, obs),
        encode_us=_time(coder.encode, latent),
        decode_us=_time(coder.decode, payload, decoded),
        policy_us=_time(acting.act, latents, available, draw),
        payload_bytes=len(payload),
    )


def _on_device_cost(config: Config, spec: EnvSpec, obs: NDArray[np.float32]) -> PolicyCost:
    """Measures a policy that runs entirely on its device."""
    shape = on_device_shape(spec=spec, policy=config.policy, seed=config.seed)
    assert shape  # all blocks are local
    device = OnDevicePolicy(
        shape=local_shape(agents=(DEVICE,), spec=spec, policy=config.policy),
        on_device=shape,
        weights=_local_weights(_policy(config, spec)),
    )
    rows = obs.shape[1]
    available = np.ones((1, rows, sum(spec.branches)), np.bool_)
    decision = device.act(obs, available, None)
    return PolicyCost(
        local_blocks=config.policy.local_blocks,
        codec="none",
        rows=rows,
        agents=len(spec.agents),
        local_us=_time(device.act, obs, available, None),
        encode_us=0.0,
        decode_us=0.0,
        policy_us=0.0,
        # The server is sent what was done, to learn from it.
        payload_bytes=decision.actions.nbytes + decision.log_probs.nbytes,
    )


def _policy(config: Config, spec: EnvSpec) -> SplitPolicy:
    return SplitPolicy(
        spec=spec,
        policy=config.policy,
        codec=config.codec,
        share=config.algo.share_param,
        generator=torch.Generator().manual_seed(config.seed),
    )


def _local_weights(policy: SplitPolicy) -> NDArray[np.float32]:
    """Returns the weights on the device as one vector."""
    return np.concatenate([each.ravel() for each in policy.local_parameters()[DEVICE]])


def _coder(config: Config, policy: SplitPolicy, size: int) -> Codec:
    tables = None
    if config.codec.name == "entropy":
        tables = policy.build_tables(1)[DEVICE]
    return make_codec(config.codec.name, size, tables=tables, pack=config.codec.pack)


def _time(act: Callable[..., object], *arguments: Any) -> float:
    """Returns the median time of a call, in microseconds."""
    durations_ns = np.empty(CALLS + WARM_UP)
    for call in range(len(durations_ns)):
        started_ns = now_ns()
        act(*arguments)
        durations_ns[call] = now_ns() - started_ns
    return _median(durations_ns[WARM_UP:]) / 1000.0


def _microseconds(nanoseconds: NDArray[Any], path: Path, absent: bool = False) -> NDArray[Any]:
    """Returns the times of a stage (K,), NaN where unknown (0 or less).

    A stage that is `absent` from the run took no time. Raises UserError where no time is known.
    """
    if absent:
        return np.zeros(len(nanoseconds))
    if not (nanoseconds > 0).any():
        raise UserError(f"{path}: no times were measured in this run")
    return np.where(nanoseconds > 0, nanoseconds / 1000.0, np.nan)


def _median(values: NDArray[Any]) -> float:
    return float(np.nanmedian(values))
