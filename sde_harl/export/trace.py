"""Writes decisions as trace events, which ui.perfetto.dev and chrome://tracing show.

A rank is a process of the trace and an agent a thread in it; rank 0 has a thread for whole
decisions, too. A record knows how long each stage took, and not when it began. So decisions follow
each other without a pause, and a message's link is laid half before and half after the server's
stages: clocks of two hosts are never compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sde_harl.analysis.devices import SERVER
from sde_harl.analysis.latency import is_on_device, stage_times
from sde_harl.outside.text import printable
from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array

WHOLE = 0
"""The thread of rank 0 that shows whole decisions; an agent's thread is its number and 1."""
NOTE = (
    "Lengths are measured. Starts are not: decisions follow each other without a pause, and half of"
    " a message's time on the link lies before the server's stages."
)
COUNTS = ("environments", "payload_bytes", "version")
"""Columns that an event of the round trip tells."""

Event = dict[str, Any]


class Stage(NamedTuple):
    """One stage of all messages: starts and lengths (K,) in nanoseconds, NaN where unknown.

    They are whole numbers: where the end of a stage and the beginning of the next were rounded
    apart, Perfetto would drop one of the two.
    """

    name: str
    ranks: Array  # (K,)
    start: Array
    length: Array


def write_trace(run: Run, path: Path, *, most: int) -> int:
    """Writes the last `most` decisions, and returns how many. Raises OSError and UserError."""
    decisions = run.table("decisions")
    first = _first_rows(decisions)[-most:]
    if len(first):
        decisions = {name: each[first[0] :] for name, each in decisions.items()}
    events = [*_names(run, decisions), *_events(run, decisions, first - first[:1])]
    about = {"run": str(run.path), "env": run.env, "emulated": run.emulated, "note": NOTE}
    content = {"traceEvents": events, "displayTimeUnit": "ns", "otherData": about}
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    return len(first)


def _first_rows(decisions: Columns) -> Array:
    """Returns the first row of each decision: its rows stand together, by ascending agent."""
    if not decisions:
        return np.zeros(0, np.int64)
    is_first = np.diff(decisions["agent"], prepend=decisions["agent"][:1]) <= 0
    return np.flatnonzero(is_first)


def _names(run: Run, decisions: Columns) -> Iterator[Event]:
    """Gives the events that name processes and threads."""
    if not decisions:
        return
    hosts = run.json_list("hosts")
    agents = run.json_list("agents")
    yield _named("process_name", "rank 0, server", rank=SERVER)
    yield _named("thread_name", "decision", rank=SERVER, thread=WHOLE)
    for rank in np.unique(decisions["rank"]).tolist():
        host = ""
        if rank < len(hosts) and isinstance(hosts[rank], dict):
            host = f", {hosts[rank].get('host', 'unknown')}"
        if rank != SERVER:
            yield _named("process_name", f"rank {rank}{host}", rank=rank)
    pairs = np.unique(np.stack([decisions["rank"], decisions["agent"]]), axis=1).T.tolist()
    for rank, agent in pairs:
        name = f"agent {agent}"
        if agent < len(agents):
            name += f", {agents[agent]}"
        for where in dict.fromkeys((rank, SERVER)):
            yield _named("thread_name", name, rank=where, thread=agent + 1)


def _named(kind: str, name: str, *, rank: int, thread: int = WHOLE) -> Event:
    about = {"name": printable(name)}
    return {"name": kind, "ph": "M", "pid": rank, "tid": thread, "args": about}


def _events(run: Run, decisions: Columns, first: Array) -> Iterator[Event]:
    if not len(first):
        return
    decided = np.where(decisions["t_decision"] > 0, decisions["t_decision"], np.nan)
    stages = [*_stages(run, decisions)]
    # A device's own time may be longer than the server's: it sends no answer at some splits.
    ends = np.fmax.reduce([decided, *(each.start + each.length for each in stages)])
    lengths = np.fmax.reduceat(ends, first)
    starts = np.concatenate([[0.0], np.cumsum(np.nan_to_num(lengths))[:-1]])
    rows = np.diff(first, append=len(decided))
    begin = np.repeat(starts, rows)  # (K,)
    steps = decisions["step"]
    for row, length in zip(first, np.fmax.reduceat(decided, first)):
        if math.isfinite(length):
            yield _event("decision", SERVER, WHOLE, (begin[row], length), {"step": int(steps[row])})
    for stage in stages:
        for row in np.flatnonzero(np.isfinite(stage.start + stage.length)):
            about = {"step": int(steps[row])}
            if stage.name == "round trip":
                about.update({name: int(decisions[name][row]) for name in COUNTS})
            thread = int(decisions["agent"][row]) + 1
            span = (begin[row] + stage.start[row], stage.length[row])
            yield _event(stage.name, int(stage.ranks[row]), thread, span, about)


def _event(
    name: str, rank: int, thread: int, span: tuple[float, float], about: dict[str, int]
) -> Event:
    start, length = span
    return {
        "name": name,
        "cat": "decision",
        "ph": "X",
        # The format counts in microseconds.
        "ts": float(start) / 1000,
        "dur": float(length) / 1000,
        "pid": rank,
        "tid": thread,
        "args": about,
    }


def _stages(run: Run, decisions: Columns) -> Iterator[Stage]:
    """Gives the stages of a message; their starts are counted from its decision's."""
    times = {name: np.rint(1000 * each) for name, each in stage_times(run, decisions).items()}
    ranks = decisions["rank"]
    server = np.full_like(ranks, SERVER)
    local = times["local net"]
    yield Stage(name="local net", ranks=ranks, start=np.zeros_like(local), length=local)
    if is_on_device(run):
        return
    encode = times["encode"]
    round_trip = decisions["t_round_trip"].astype(float)
    round_trip[round_trip <= 0] = np.nan
    # A stage that wasn't timed takes no place before the next one.
    sent = np.nan_to_num(local) + np.nan_to_num(encode)
    arrived = sent + np.maximum(np.nan_to_num(times["link"]), 0) // 2
    decoded = arrived + np.nan_to_num(times["decode"])
    yield Stage(name="encode", ranks=ranks, start=np.nan_to_num(local), length=encode)
    yield Stage(name="round trip", ranks=ranks, start=sent, length=round_trip)
    yield Stage(name="decode", ranks=server, start=arrived, length=times["decode"])
    yield Stage(name="policy", ranks=server, start=decoded, length=times["policy"])
