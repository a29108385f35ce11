"""Writes what decisions cost: latency by stage, bytes, processor time, memory and energy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sde_harl.analysis import figures, tables
from sde_harl.analysis.consumption import Report, Row, summarise
from sde_harl.analysis.each_run import of_run
from sde_harl.analysis.latency import STAGES
from sde_harl.record.reader import Run
from sde_harl.report.lines import Line
from sde_harl.report.moments import (
    Timeline,
    one_decision,
)
from sde_harl.report.page import Html, details, panel, panels, paragraph, section, table
from sde_harl.report.svg import PANEL, as_svg

MOST_RUNS = 12
"""Runs whose costs are shown."""
MOST_LINES = 4
"""Lines of which a decision, a histogram and the usage of a run are drawn."""
RANKS = (
    *("rank", "host", "decisions", "p50 us", "p95 us", "p99 us"),
    *("payload B", "CPU s", "CPU us a decision", "peak MB"),
)


class Costs(NamedTuple):
    """The costs of one run."""

    line: Line
    run: Run
    report: Report

    @property
    def total(self) -> Row | None:
        """Returns the figures of all ranks; None where no decisions were recorded."""
        rows = self.report.rows
        if not rows or not rows[-1].messages:
            return None
        return rows[-1]

    @property
    def name(self) -> str:
        return f"{self.line.letter}, seed {self.run.seed}"


def costs_of(lines: list[Line]) -> list[Costs]:
    """Returns the costs of the first runs of each line, MOST_RUNS in all."""
    # In turn, so that every line is among them.
    turns = range(max((len(line.runs) for line in lines), default=0))
    chosen = [(line, line.runs[k]) for k in turns for line in lines if k < len(line.runs)]
    found = [
        Costs(line=line, run=run, report=of_run(run, lambda each: summarise(each, {})))
        for line, run in chosen[:MOST_RUNS]
    ]
    return sorted(found, key=lambda each: each.line.number)


def first_of_lines(costs: Iterable[Costs]) -> list[Costs]:
    """Returns the first of each line, MOST_LINES in all."""
    first: dict[int, Costs] = {}
    for each in costs:
        first.setdefault(each.line.number, each)
    return list(first.values())[:MOST_LINES]


def latency_section(costs: list[Costs]) -> Html:
    known = [each for each in costs if each.total]
    if not known:
        return section("latency", "Latency", [paragraph(_no_decisions(costs))])
    parts = [_stages_panel(known)]
    for each in first_of_lines(known):
        moment = one_decision(each.run)
        if moment:
            parts.append(_timeline_panel(each, moment))
    return section("latency", "Latency", [panels(parts), _ranks(known)])


def _no_decisions(costs: list[Costs]) -> str:
    runs = tables.plural(len(costs), "run")
    return f"Unknown: no decisions were recorded in {runs} (record.decisions: false)."


def _stages_panel(costs: list[Costs]) -> Html:
    figure = figures.new_figure(PANEL[0], max(PANEL[1], 1.4 + 0.28 * len(costs)))
    axes = figure.add_subplot()
    names = [each.name for each in costs]
    left = np.zeros(len(costs))
    for stage in STAGES[:-1]:
        medians = [each.total.latency[stage].p50 for each in costs if each.total]
        widths = np.nan_to_num(np.array(medians)) / 1e3
        axes.barh(names, widths, left=left, label=stage, height=0.6)
        left += widths
    whole = [each.total.latency["whole"].p50 / 1e3 for each in costs if each.total]
    # The median of the sum is not the sum of the medians, hence a mark of its own.
    axes.plot(whole, names, "|", color=figures.INK, markersize=12, label="whole")
    spare = max(0, (3 - len(costs)) / 2)
    axes.set(xlabel="median time of a message, ms", xlim=(0, None))
    axes.set_ylim(len(costs) - 0.4 + spare, -0.6 - spare)
    figures.add_legend(axes, columns=3)
    svg = as_svg(figure, "latency by stage")
    text = (
        "Local net and encode: the device's clock. Decode and policy: the server's. Link: the round"
        " trip without the server's stages; it includes waiting for the other agents."
    )
    return panel(svg, text)


def _timeline_panel(costs: Costs, moment: Timeline) -> Html:
    figure = figures.new_figure(PANEL[0], max(PANEL[1], 1.4 + 0.28 * len(moment.agents)))
    axes = figure.add_subplot()
    for stage, (starts, widths) in moment.stages.items():
        axes.barh(moment.agents, widths, left=starts, label=stage, height=0.6)
    spare = max(0, (3 - len(moment.agents)) / 2)
    axes.set(xlabel="time since the device had its observation, µs", xlim=(0, None))
    axes.set_ylim(len(moment.agents) - 0.4 + spare, -0.6 - spare)
    axes.set_title(f"{costs.name}: one decision, step {moment.step:,}")
    figures.add_legend(axes, columns=3)
    svg = as_svg(figure, f"timeline of one decision, {costs.name}")
    text = (
        "The decision with the median time. No two hosts' clocks are compared, so the server's"
        " stages stand in the middle of the round trip: only their lengths are measured."
    )
    return panel(svg, text)


def _ranks(costs: list[Costs]) -> Html:
    tables_of_runs = [
        details(f"{each.name}: by rank", table(RANKS, [_rank(row) for row in each.report.rows]))
        for each in costs
    ]
    return Html("".join(tables_of_runs))


def _rank(row: Row) -> list[str]:
    whole = row.latency["whole"]
    cpu_us = math.nan
    if row.decisions:
        cpu_us = 1e6 * row.cpu_s / row.decisions
    return [
        row.rank,
        row.host,
        f"{row.decisions:,}",
        *(tables.number(value, ",.0f") for value in (whole.p50, whole.p95, whole.p99)),
        tables.number(row.bytes.payload, ".1f"),
        tables.number(row.cpu_s, ",.1f"),
        tables.number(cpu_us, ",.0f"),
        tables.number(row.peak_bytes / 1e6, ",.0f"),
    ]


def evaluated_bytes(run: Run) -> float:
    """Returns the bytes of a decision in the last evaluation; NaN where nothing was sent."""
    sent = run.table("evaluations").get("bytes_per_decision", np.zeros(0))
    if not len(sent) or not sent[-1] > 0:
        return math.nan
    return float(sent[-1])


def headline(costs: Costs) -> list[str]:
    """Returns the lines of a card about what a run's decisions cost."""
    total = costs.total
    if not total:
        # Evaluations have the bytes, whether or not single decisions are recorded.
        sent = evaluated_bytes(costs.run)
        float32 = 4.0 * costs.run.number("latent")
        return [
            _bytes_line(costs.run, sent, float32),
            "latency unknown: decisions weren't recorded",
        ]
    lines = [_bytes_line(costs.run, total.bytes.payload, total.bytes.float32)]
    whole = total.latency["whole"]
    if not math.isnan(whole.p50):
        lines.append(f"{whole.p50 / 1e3:,.2f} ms a message (p99 {whole.p99 / 1e3:,.2f} ms)")
    return [*lines, "over all decisions, those of training too"]


def _bytes_line(run: Run, sent: float, float32: float) -> str:
    if not sent > 0:
        return "bytes unknown"
    line = f"{sent:.1f} bytes a decision"
    if run.codec in ("none", "float32") or not float32 > 0:
        return line
    return f"{line}, {float32 / sent:.1f} times less than float32"
