"""Takes out of a record what is drawn of single moments: a decision, message sizes, usage."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sde_harl.analysis.devices import SERVER
from sde_harl.analysis.latency import is_on_device, stage_times
from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array

BINS = 40
MOST_POINTS = 300
TRIES = 50
MOST_AGENTS = 30
"""Agents of a decision that are drawn."""


class Timeline(NamedTuple):
    """The course of one decision."""

    step: int
    agents: list[str]
    stages: dict[str, tuple[Array, Array]]
    """Starts and lengths (agents,) in microseconds, by stage."""


class Sizes(NamedTuple):
    """How many bits messages have, for a decision of one agent; shares add up to 1."""

    edges: Array  # (BINS + 1,)
    sent: Array  # (BINS,)
    ideal: Array
    overhead: float
    """By how much the bits sent exceed those of the model, as a share of these."""


class Usage(NamedTuple):
    """The resources that the server and the executors used over time."""

    minutes: Array
    cores: dict[str, Array]
    megabytes: dict[str, Array]


def one_decision(run: Run) -> Timeline | None:
    """Returns the course of the decision with the median time; None where none was timed."""
    decisions = run.table("decisions")
    if not decisions:
        return None
    times = stage_times(run, decisions)
    # A late answer has no server's stages, so that its link is unknown.
    stages = [each for name, each in times.items() if not np.isnan(each).all()]
    known = np.flatnonzero(np.isfinite(stages).all(0))
    if not len(known):
        return None
    rows = _rows_of_median(decisions, times["whole"], known)
    names = run.json_list("agents")
    return Timeline(
        step=int(decisions["step"][rows[0]]),
        agents=[_agent_name(names, int(agent)) for agent in decisions["agent"][rows]],
        stages=_stages(run, {name: np.nan_to_num(each[rows]) for name, each in times.items()}),
    )


def _rows_of_median(decisions: Columns, whole: Array, known: Array) -> Array:
    """Returns the rows of a decision of about the median time, of whose agents all were timed."""
    middle = np.argsort(abs(whole[known] - np.median(whole[known])), kind="stable")
    tries = [_rows_of_decision(decisions, int(row)) for row in known[middle[:TRIES]]]
    complete = [rows for rows in tries if np.isin(rows, known).all()]
    if complete:
        return complete[0]
    alone: Array = known[middle[:1]]
    return alone


def _rows_of_decision(decisions: Columns, row: int) -> Array:
    """Returns the rows of the decision that a row is of, MOST_AGENTS at most."""
    # The rows of a decision stand together, agent by agent.
    first = row - int(decisions["agent"][row])
    if first < 0 or decisions["agent"][first] != 0:
        return np.array([row])
    last = first
    agents = decisions["agent"]
    while last + 1 < len(agents) and agents[last + 1] == agents[last] + 1:
        last += 1
        if last - first >= MOST_AGENTS - 1:
            break
    return np.arange(first, max(last, first) + 1)


def _agent_name(names: list[str], agent: int) -> str:
    if agent < len(names):
        return f"{agent} {names[agent]}"[:16]
    return str(agent)


def _stages(run: Run, times: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
    local = times["local net"]
    start = np.zeros_like(local)
    stages = {"local net": (start, local)}
    if is_on_device(run):
        return stages
    encoded = local + times["encode"]
    half = np.maximum(times["link"], 0) / 2
    decoded = encoded + half + times["decode"]
    stages["encode"] = (local, times["encode"])
    stages["link and waiting"] = (encoded, half)
    stages["decode"] = (encoded + half, times["decode"])
    stages["policy"] = (decoded, times["policy"])
    stages["link back"] = (decoded + times["policy"], half)
    return stages


def message_bits(run: Run) -> Sizes | None:
    """Returns the bits of messages as sent and by the entropy model; None where it has none."""
    decisions = run.table("decisions")
    if not decisions:
        return None
    rows = decisions["environments"].astype(float)
    ideal = decisions["ideal_bits"]
    # A late answer's bytes are counted in the row, its ideal bits are not known.
    chosen = np.isfinite(ideal) & (ideal > 0) & (rows > 0) & (decisions["late"] == 0)
    if not chosen.any():
        return None
    sent = 8.0 * decisions["payload_bytes"][chosen] / rows[chosen]
    model = ideal[chosen] / rows[chosen]
    # The few largest would squeeze all others into one bin.
    edges = np.linspace(*_range(np.concatenate([sent, model])), BINS + 1)
    return Sizes(
        edges=edges,
        sent=np.histogram(sent, edges)[0] / len(sent),
        ideal=np.histogram(model, edges)[0] / len(model),
        overhead=float(sent.mean() / model.mean() - 1),
    )


def _range(values: Array) -> tuple[float, float]:
    low, high = np.percentile(values, (0.1, 99.9))
    if high - low < 1:
        return float(low) - 1, float(high) + 1
    return float(low), float(high)


def usage_of(run: Run) -> Usage | None:
    """Returns what a run used over time; None where it was recorded less than twice."""
    table = run.table("resources")
    ranks = table.get("rank", np.zeros(0))
    server = np.flatnonzero(ranks == SERVER)
    if len(server) < 2:
        return None
    chosen = np.unique(np.linspace(0, len(server) - 1, MOST_POINTS).astype(int))
    times = table["time_s"][server][chosen]
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        return None
    cores = {"server": _cores(table["cpu_s"][server][chosen], times)}
    megabytes = {"server": table["rss_bytes"][server][chosen] / 1e6}
    executors = [_at(table, rank, times) for rank in np.unique(ranks[ranks != SERVER])]
    # One process that holds both is counted once, as the server.
    if executors and run.text("placement") != "local":
        cores["executors"] = _cores(np.sum([each.cpu_s for each in executors], axis=0), times)
        megabytes["executors"] = np.sum([each.megabytes for each in executors], axis=0)
    return Usage(minutes=times / 60, cores=cores, megabytes=megabytes)


class _Course(NamedTuple):
    cpu_s: Array
    megabytes: Array


def _at(table: Columns, rank: int, times: Array) -> _Course:
    """Returns a rank's figures at these times; between two reports they are taken as straight."""
    rows = table["rank"] == rank
    own = table["time_s"][rows]
    return _Course(
        cpu_s=np.interp(times, own, table["cpu_s"][rows]),
        megabytes=np.interp(times, own, table["rss_bytes"][rows] / 1e6),
    )


def _cores(cpu_s: Array, times: Array) -> Array:
    """Returns the processors in use before each time; unknown before the first."""
    used: Array = np.concatenate([[math.nan], np.diff(cpu_s) / np.diff(times)])
    return used
