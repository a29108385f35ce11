"""Tells what a decision costs and earns, by where the policy is split.

Everything was measured in the runs themselves; what a run did not measure stays unknown (NaN).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from sde_harl.analysis.alike import differences
from sde_harl.analysis.devices import device_cpu_counters, device_energies, is_one_process
from sde_harl.analysis.each_run import of_each
from sde_harl.analysis.energy import energy_notes, host_energies
from sde_harl.analysis.latency import is_on_device, stage_times
from sde_harl.analysis.run_config import setting
from sde_harl.analysis.statistics import Spread, quantiles, spread
from sde_harl.errors import UserError
from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Holds one run's figures.

    Times are medians in microseconds for a message; bytes, processor time and energy are for one
    decision of one agent.
    """

    device: float  # local net and coding, executor's clock
    link: float  # round trip less the server's stages; it includes waiting for the other agents
    server: float  # decoding, group net and head, server's clock
    whole: float  # from the observation at the device to the action there
    whole_p95: float
    payload: float
    wire: float  # with our header, one a message
    observation: float  # the raw observation as float32
    device_cpu: float  # of the executors, waiting included
    device_mj: float  # millijoules of the executors' hosts, idle included
    steps: int  # environment steps that the policy had learnt from
    return_mean: float
    win_rate: float


FIGURES = tuple(field.name for field in fields(Figures))


class SplitKey(NamedTuple):
    """Identifies runs that differ in nothing but the seed; splits are shown in its order."""

    env: str
    blocks: int
    local_blocks: int
    codec: str
    rows: int  # decisions in a message


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Holds what one run tells about its split."""

    key: SplitKey
    seed: str
    figures: Figures
    energy: list[str]  # why the energy is unknown
    untrained: bool
    one_process: bool  # one process held server and executors


@dataclass(frozen=True, kw_only=True)
class Split:
    """Holds the figures of one split, codec and message size over its seeds."""

    env: str
    blocks: int
    local_blocks: int
    codec: str
    rows: int
    seeds: list[str]
    figures: dict[str, Spread]  # by FIGURES
    energy: list[str]
    untrained: bool
    one_process: bool


def cost(run: Run) -> Cost:
    """Returns what one run tells about its split.

    Raises UserError where it has no decisions, or where its configuration can't be read.
    """
    decisions = run.table("decisions")
    if not decisions:
        raise UserError(f"{run.path}: no decisions were recorded in this run (record.decisions)")
    device_mj, energy = _device_mj(run)
    steps = _learnt_steps(run)
    return Cost(
        key=_key(run, decisions),
        seed=run.seed,
        figures=_figures(run, decisions, device_mj=device_mj, steps=steps),
        energy=energy,
        untrained=not steps and setting(run, "train.load", "none", kind=str) == "none",
        one_process=is_one_process(run),
    )


def _key(run: Run, decisions: Columns) -> SplitKey:
    return SplitKey(
        env=run.env,
        blocks=setting(run, "policy.blocks", kind=int),
        local_blocks=setting(run, "policy.local_blocks", kind=int),
        codec=run.codec,
        # Most messages are of one size; those of evaluations may be smaller.
        rows=int(np.median(decisions["environments"])),
    )


def _figures(run: Run, decisions: Columns, *, device_mj: float, steps: int) -> Figures:
    times = _end_times(run, decisions)
    whole = quantiles(times.whole)
    count = float(decisions["environments"].sum())
    evaluations = run.table("evaluations")
    return Figures(
        device=quantiles(times.device).p50,
        link=quantiles(times.link).p50,
        server=quantiles(times.server).p50,
        whole=whole.p50,
        whole_p95=whole.p95,
        payload=float(decisions["payload_bytes"].sum()) / count,
        wire=float(decisions["wire_bytes"].sum()) / count,
        observation=_observation_bytes(run, decisions),
        device_cpu=_device_cpu_us(run, decisions),
        device_mj=device_mj,
        steps=steps,
        return_mean=_last(evaluations, "return_mean"),
        win_rate=_last(evaluations, "win_rate"),
    )


def costs_of(runs: Sequence[Run]) -> list[Cost]:
    """Returns what each run tells, with what is unlike in it beside its codec.

    Raises UserError as `cost` does.
    """
    costs = of_each(runs, cost)
    keys = {run: each.key for run, each in zip(map(id, runs), costs, strict=True)}
    unlike = differences(runs, lambda run: keys[id(run)])
    return [
        replace(each, key=each.key._replace(codec=", ".join(filter(None, (each.key.codec, what)))))
        for each, what in zip(costs, unlike, strict=True)
    ]


def group_splits(costs: list[Cost]) -> list[Split]:
    """Returns the splits in the order of SplitKey, the seeds of each together."""
    found: dict[SplitKey, list[Cost]] = {}
    for each in costs:
        found.setdefault(each.key, []).append(each)
    return [_split(key, members) for key, members in sorted(found.items())]


def _split(key: SplitKey, members: list[Cost]) -> Split:
    figures = {
        name: spread(float(getattr(each.figures, name)) for each in members) for name in FIGURES
    }
    reasons = dict.fromkeys(line for each in members for line in each.energy)
    return Split(
        **key._asdict(),
        seeds=sorted(each.seed for each in members),
        figures=figures,
        energy=list(reasons),
        untrained=any(each.untrained for each in members),
        one_process=any(each.one_process for each in members),
    )


class _EndTimes(NamedTuple):
    """Microseconds of every message (K,), by where they are spent."""

    device: Array
    link: Array
    server: Array
    whole: Array


def _end_times(run: Run, decisions: Columns) -> _EndTimes:
    times = stage_times(run, decisions)
    if is_on_device(run):  # its action needs neither link nor server
        nothing = np.zeros(len(times["whole"]))
        return _EndTimes(
            device=times["local net"], link=nothing, server=nothing, whole=times["whole"]
        )
    return _EndTimes(
        device=times["local net"] + times["encode"],
        link=times["link"],
        server=times["decode"] + times["policy"],
        whole=times["whole"],
    )


def _device_cpu_us(run: Run, decisions: Columns) -> float:
    """Returns the executors' processor time for a decision, from first to last report.

    It is unknown where an executor reported only once, where no decision came after, and in one
    process.
    """
    resources = run.table("resources")
    counters = device_cpu_counters(run, resources)
    if not counters:
        return math.nan
    used_s = sum(float(each[-1] - each[0]) for each in counters)
    # What was decided before the first report is not in the counters' growth.
    later = decisions["step"] >= resources["step"].min()
    count = float(decisions["environments"][later].sum())
    if not count:
        return math.nan
    return 1e6 * float(used_s) / count


def _device_mj(run: Run) -> tuple[float, list[str]]:
    """Returns millijoules of a decision at the executors' hosts, and why they are unknown."""
    devices = device_energies(run)
    decisions = sum(each.decisions for each in devices)
    joules = sum(each.joules for each in devices)
    if decisions and not math.isnan(joules):
        return 1e3 * joules / decisions, []
    unknown = [each for each in devices or host_energies(run) if math.isnan(each.joules)]
    reasons = energy_notes(unknown)
    if not reasons:
        reasons = ["energy of the devices: they share rank 0's host, whose sensor counts all"]
    return math.nan, reasons


def _observation_bytes(run: Run, decisions: Columns) -> float:
    sizes = np.array(run.json_list("obs_sizes"), float)
    agents = decisions["agent"]
    if not len(sizes) or agents.max() >= len(sizes):
        return math.nan
    return float(np.average(4 * sizes[agents], weights=decisions["environments"]))


def _learnt_steps(run: Run) -> int:
    training = run.table("training")
    if not training:
        return 0
    return int(training["step"][-1])


def _last(table: Columns, name: str) -> float:
    if name not in table:
        return math.nan
    return float(table[name][-1])
