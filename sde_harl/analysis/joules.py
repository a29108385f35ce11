"""Joules by host, as its sensor counted them in the run or as an external meter did; nothing is assumed or modelled.

A sensor counts for its whole host, so ranks of one host share one figure, and hosts are not added up.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from sde_harl.errors import UserError
from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array

LEAST_S, LEAST_DECISIONS = 1.0, 1000
"""A shorter window says nothing of a single decision."""


@dataclass(frozen=True)
class Energy:
    """Of one host and sensor; NaN: unknown."""

    host: str
    sensor: str  # what it covers, or why there is no figure
    window_s: float
    decisions: int
    joules: float
    idle_w: float
    joules_per_decision: float
    joules_per_decision_without_idle: float


def energies(run: Run, meters: dict[str, Path]) -> list[Energy]:
    """Every host's sensors, in the order of ranks. `meters`: a host's external meter, as a CSV file (`watts_of`).

    Raises UserError where a meter's file or host is not right.
    """
    resources, decisions = run.table("resources"), run.table("decisions")
    hosts = [
        host if isinstance(host, dict) else {"host": str(host)} for host in run.json_list("hosts")
    ]
    names = [str(host.get("host")) for host in hosts]
    unknown = sorted(set(meters) - set(names))
    if unknown:
        raise UserError(
            f"{run.path}: --meter {unknown[0]}: its hosts are {', '.join(sorted(set(names)))}"
        )
    found = []
    for name in dict.fromkeys(names):
        ranks = [rank for rank, each in enumerate(names) if each == name]
        mine = {key: column[resources["rank"] == ranks[0]] for key, column in resources.items()}
        made = _decisions(decisions, ranks, mine)
        for kind, scope in (("joules", "energy"), ("gpu_joules", "gpu_energy")):
            idle = mine.get("idle_w" if kind == "joules" else "gpu_idle_w", np.zeros(0))
            sensor = str(hosts[ranks[0]].get(scope, "not recorded"))
            found.append(_energy(name, sensor, mine.get(kind, np.zeros(0)), idle, mine, made))
        if name in meters:
            time_s, joules = watts_of(meters[name], run)
            counted = (
                np.interp(mine["time_s"], time_s, joules, math.nan, math.nan)
                if mine
                else np.zeros(0)
            )
            found.append(
                _energy(name, f"external meter, {meters[name]}", counted, np.zeros(0), mine, made)
            )
    return found


def _decisions(table: Columns, ranks: list[int], resources: Columns) -> int:
    """Those of the host's agents between its first and last look at the sensor; the server's are all."""
    if not table or not len(resources.get("step", ())):
        return 0
    step = table["step"]
    inside = (step >= resources["step"][0]) & (step < resources["step"][-1])
    mine = inside if 0 in ranks else inside & np.isin(table["rank"], ranks)
    return int(table["environments"][mine].sum())


def _energy(
    host: str, sensor: str, counted: Array, idle: Array, resources: Columns, made: int
) -> Energy:
    known = counted[~np.isnan(counted)]
    if len(known) < 2 or len(known) < len(counted):
        return Energy(host, sensor, math.nan, made, math.nan, math.nan, math.nan, math.nan)
    window, joules = (
        float(resources["time_s"][-1] - resources["time_s"][0]),
        float(known[-1] - known[0]),
    )
    watts = float(idle[0]) if len(idle) else math.nan
    enough = made if window >= LEAST_S and made >= LEAST_DECISIONS else math.nan
    return Energy(
        host,
        sensor,
        window,
        made,
        joules,
        watts,
        joules / enough,
        (joules - watts * window) / enough,
    )


def watts_of(path: Path, run: Run) -> tuple[Array, Array]:
    """A meter's (seconds since the run's start, joules so far), of a CSV with the columns unix_s and watts.

    Both clocks are taken as they are: the meter's has to be the server's. Raises UserError, naming the file.
    """
    try:
        with path.open(newline="") as file:
            rows = [(float(row["unix_s"]), float(row["watts"])) for row in csv.DictReader(file)]
        time, watts = np.array(rows, np.float64).reshape(-1, 2).T
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a meter's CSV with the columns unix_s and watts: {error!r}"
        ) from error
    if len(time) < 2 or not np.isfinite(watts).all() or not (np.diff(time) > 0).all():
        raise UserError(
            f"{path}: a meter's CSV needs two rows or more, their times rising and finite"
        )
    joules = np.concatenate([[0.0], np.cumsum(0.5 * (watts[1:] + watts[:-1]) * np.diff(time))])
    return time - datetime.fromisoformat(str(run.meta["started"])).timestamp(), joules


def sentences(found: list[Energy]) -> list[str]:
    """A line for each figure; hosts that have none for the same reason share one."""
    lines = [_sentence(each) for each in found if not math.isnan(each.joules)]
    reasons: dict[str, list[str]] = {}
    for each in found:
        if math.isnan(each.joules):
            reasons.setdefault(each.sensor, []).append(each.host)
    return lines + [f"energy of {', '.join(hosts)}: {reason}" for reason, hosts in reasons.items()]


def _sentence(each: Energy) -> str:
    line = f"energy of {each.host} ({each.sensor}): {each.joules:.1f} J in {each.window_s:.1f} s"
    if math.isnan(each.joules_per_decision):
        return f"{line}; too short for joules of a decision ({each.decisions:,} decisions)"
    line += f", {each.joules_per_decision * 1e3:.3f} mJ a decision"
    if math.isnan(each.idle_w):
        return f"{line} (idle power not measured: meters.idle_s)"
    return f"{line}, {each.joules_per_decision_without_idle * 1e3:.3f} mJ without idle ({each.idle_w:.2f} W)"


def meter(text: str) -> tuple[str, Path]:
    """HOST=FILE of the command line. Raises ValueError."""
    host, equals, file = text.partition("=")
    if not (host and equals and file):
        raise ValueError(text)
    return host, Path(file)
