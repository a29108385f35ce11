"""The figures behind split.py: what a decision costs and what it earns, by where the policy is cut.

Everything is measured in the run itself; what it did not measure stays unknown (NaN).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from sde_harl.analysis.consumption import stage, stage_times
from sde_harl.analysis.curves import Spread, spread
from sde_harl.analysis.joules import energies, sentences
from sde_harl.errors import UserError
from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array


@dataclass(frozen=True)
class Cost:
    """One run. Times in microseconds a message; bytes, processor time for one decision of one agent."""

    path: str
    env: str
    blocks: int
    local_blocks: int
    codec: str
    rows: int  # decisions a message
    seed: str
    device: float  # median of local net and coding, executor's clock
    link: float  # median of round trip without the server's two stages: it includes waiting for the other agents
    server: float  # median of decoding, group net and head, server's clock
    whole: float  # median from the observation at the device to the action there
    whole_p95: float
    payload: float
    wire: float  # with our header, one a message
    observation: float  # the raw observation as float32
    device_cpu: (
        float  # of the executors, waiting included; unknown in one process, or with one report only
    )
    device_mj: float  # millijoules of the executors' hosts, idle included; unknown without sensors of their own
    energy: list[str]  # why it is unknown
    steps: int  # environment steps that the policy had learnt from
    loaded: bool  # it had begun from a checkpoint
    one_process: bool  # that held server and executors
    return_mean: float
    win_rate: float


@dataclass(frozen=True)
class Split:
    """The runs of one split, codec and message size: figures over their seeds."""

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


FIGURES = ("device", "link", "server", "whole", "whole_p95", "payload", "wire", "observation", "device_cpu",
           "device_mj", "steps", "return_mean", "win_rate")  # fmt: skip


def cost(run: Run) -> Cost:
    """Of one run. Raises UserError where it has no decisions, or its configuration can't be read."""
    policy, train = (_section(run, name) for name in ("policy", "train"))
    table, learnt = run.table("decisions"), run.table("training")
    if not table:
        raise UserError(f"{run.path}: no decisions were recorded in this run (record.decisions)")
    device, link, server, whole = _ends(run, table)
    made, one_process = float(table["environments"].sum()), _one_process(run)
    device_mj, energy = _device_energy(run)
    last = {key: float(values[-1]) for key, values in run.table("evaluations").items()}
    return Cost(
        str(run.path), run.env, int(policy["blocks"]), int(policy["local_blocks"]), str(run.meta.get("codec")),
        int(np.median(table["environments"])), run.seed,
        device=stage(device).p50, link=stage(link).p50, server=stage(server).p50,
        whole=stage(whole).p50, whole_p95=stage(whole).p95,
        payload=float(table["payload_bytes"].sum()) / made,
        wire=float(table["wire_bytes"].sum()) / made,
        observation=_observation(run, table),
        device_cpu=math.nan if one_process else _device_cpu(table, run.table("resources")),
        device_mj=device_mj,
        energy=energy,
        steps=int(learnt["step"][-1]) if learnt else 0,
        loaded=str(train.get("load", "none")) != "none",
        one_process=one_process,
        return_mean=last.get("return_mean", math.nan),
        win_rate=last.get("win_rate", math.nan),
    )  # fmt: skip


def splits(costs: list[Cost]) -> list[Split]:
    """By split, codec and message size, in that order; the seeds of each together."""
    found: dict[tuple[str, int, int, str, int], list[Cost]] = {}
    for item in costs:
        found.setdefault(
            (item.env, item.blocks, item.local_blocks, item.codec, item.rows), []
        ).append(item)
    return [
        Split(
            *key,
            sorted(item.seed for item in members),
            {name: spread(float(getattr(item, name)) for item in members) for name in FIGURES},
            energy=list(dict.fromkeys(line for item in members for line in item.energy)),
            untrained=any(not item.steps and not item.loaded for item in members),
            one_process=any(item.one_process for item in members),
        )
        for key, members in sorted(found.items())
    ]


def _ends(run: Run, table: Columns) -> tuple[Array, Array, Array, Array]:
    """Microseconds at the device, on the link, at the server, and from end to end, of every message (K,)."""
    times = stage_times(run, table)
    if run.meta.get("codec") == "none":  # a whole policy's action needs neither link nor server
        nothing = np.zeros(len(times["whole"]))
        return times["local net"], nothing, nothing, times["whole"]
    device, server = times["local net"] + times["encode"], times["decode"] + times["policy"]
    return device, times["link"], server, times["whole"]


def _device_cpu(decisions: Columns, resources: Columns) -> float:
    """Microseconds of the executors' processors for a decision, from their first report to their last."""
    ranks = [rank for rank in np.unique(resources["rank"]) if rank] if resources else []
    used = [resources["cpu_s"][resources["rank"] == rank] for rank in ranks]
    later = (
        decisions["step"] >= resources["step"].min()
        if resources
        else np.zeros(len(decisions["step"]), bool)
    )
    made = float(decisions["environments"][later].sum())
    return (
        1e6 * float(sum(each[-1] - each[0] for each in used)) / made if used and made else math.nan
    )


def _device_energy(run: Run) -> tuple[float, list[str]]:
    """Millijoules of a decision at the hosts that hold executors and not rank 0, and why where that is unknown."""
    found = energies(run, {})[
        ::2
    ]  # of each host's two sensors, not the GPUs': nets on devices run on processors
    apart = found[1:]  # in the order of ranks: rank 0's host is the first
    made = sum(each.decisions for each in apart)
    joules = sum(each.joules for each in apart)
    if made and not math.isnan(joules):
        return 1e3 * joules / made, []
    unknown = [each for each in apart or found if math.isnan(each.joules)]
    return math.nan, sentences(unknown) or [
        "energy of the devices: they share rank 0's host, whose sensor counts all"
    ]


def _one_process(run: Run) -> bool:
    """Whether rank 0 and the first executor are the same process."""
    processes = [
        (host.get("host"), host.get("pid"))
        for host in run.json_list("hosts")
        if isinstance(host, dict)
    ]
    return len(processes) > 1 and None not in processes[0] and processes[0] == processes[1]


def _observation(run: Run, table: Columns) -> float:
    sizes, agents = np.array(run.json_list("obs_sizes"), float), table["agent"]
    if not len(sizes) or agents.max() >= len(sizes):
        return math.nan
    return float(np.average(4 * sizes[agents], weights=table["environments"]))


def _section(run: Run, name: str) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(str(run.meta["config"]))[name])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.path}: /meta config has no section {name}") from error
