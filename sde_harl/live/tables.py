"""Puts a run's state into words and cells, the same for the terminal and the page."""

from __future__ import annotations

import math

from sde_harl.analysis.tables import number
from sde_harl.live.state import QUIET_S, Agent, State
from sde_harl.record.progress import clock

AGENTS = ("agent", "rank", "link", "age", "missed", "idle", "fallback", "ms", "bytes")
NOTE = (
    "age: steps, of the latents used; missed: latents after the deadline; ms: median, from the"
    " observation to the action; bytes: of a decision. Over the last decisions of each agent."
)


def progress_line(state: State) -> str:
    """Returns how far the run is, in one line."""
    parts = [f"{state.steps:,} steps"]
    if state.planned:
        parts = [f"{state.steps:,} of {state.planned:,} steps ({state.share:.0%})"]
    if state.phase == "running" and not math.isnan(state.steps_per_s):
        parts.append(f"{state.steps_per_s:,.0f} steps/s")
    if state.phase == "running" and not math.isnan(state.left_s):
        parts.append(f"ETA {clock(min(state.left_s, 1e9))}")
    if not math.isnan(state.seconds):
        parts.append(f"{clock(min(state.seconds, 1e9))} so far")
    return " · ".join([state.phase, *parts])


def warning(state: State) -> str:
    """Returns what is odd about the run; empty where nothing is."""
    if state.phase == "silent":
        return (
            f"nothing was written for {clock(state.quiet_s)}: it is in a long update or"
            f" evaluation, or it has ended before its time (more than {QUIET_S:.0f} s)"
        )
    return ""


def agent_cells(agent: Agent) -> list[str]:
    """Returns the cells of an agent's row, in the order of AGENTS."""
    return [
        agent.name,
        agent.rank,
        agent.health,
        number(agent.age, ".2f"),
        *(number(share, ".1%") for share in (agent.missed, agent.idle, agent.fallback)),
        number(agent.milliseconds, ",.2f"),
        number(agent.bytes, ",.1f"),
    ]


def fault_line(state: State) -> str:
    """Returns the faults of late, by kind."""
    if not state.faults:
        return "no faults"
    counts = sorted(state.faults.items(), key=lambda item: -item[1])
    return "faults: " + ", ".join(f"{kind} {count:,}" for kind, count in counts)
