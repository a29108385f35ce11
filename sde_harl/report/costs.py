"""Writes what decisions cost: latency by stage, bytes, processor time, memory and energy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sde_harl.analysis import figures, tables
from sde_harl.analysis.consumption import Report, Row, summarise
from sde_harl.analysis.each_run import of_run
from sde_harl.analysis.energy import energy_notes
from sde_harl.analysis.latency import STAGES
from sde_harl.analysis.message_sizes import Bytes
from sde_harl.record.reader import Run
from sde_harl.report.lines import Line
from sde_harl.report.moments import (
    Sizes,
    Timeline,
    Usage,
    message_bits,
    one_decision,
    usage_of,
)
from sde_harl.report.page import Html, details, panel, panels, paragraph, section, table
from sde_harl.report.svg import PANEL, as_svg

MOST_RUNS = 12
"""Runs whose costs are shown."""
MOST_LINES = 4
"""Lines of which a decision, a histogram and the usage of a run are drawn."""
SENT = {
    "sent, payload": "payload",
    "sent, with our header": "wire",
    "sent, all headers": "network",
    "ideal, by the entropy model": "ideal",
    "latent as int8": "int8",
    "latent as float32": "float32",
    "raw observation": "observation",
}
"""What is drawn of `Bytes`, from what is sent to what would be sent otherwise."""
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


def _first_of_lines(costs: Iterable[Costs]) -> list[Costs]:
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
    for each in _first_of_lines(known):
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


def bytes_section(costs: list[Costs]) -> Html:
    known = [each for each in costs if each.total]
    if not known:
        return section("bytes", "Bytes of a decision", [paragraph(_no_decisions(costs))])
    parts = [_bytes_panel(_first_of_lines(known))]
    for each in _first_of_lines(known):
        bits = message_bits(each.run)
        if bits:
            parts.append(_histogram_panel(each, bits))
    head = ("run", *SENT, "float32 over payload")
    rows = [_bytes_row(each.name, each.total.bytes) for each in known if each.total]
    return section("bytes", "Bytes of a decision", [panels(parts), table(head, rows)])


def _bytes_row(name: str, size: Bytes) -> list[str]:
    ratio = math.nan
    if size.payload > 0:
        ratio = size.float32 / size.payload
    sizes = [tables.number(getattr(size, key), ",.1f") for key in SENT.values()]
    return [name, *sizes, tables.number(ratio, ".1f")]


def _bytes_panel(costs: list[Costs]) -> Html:
    figure = figures.new_figure(PANEL[0], PANEL[1] + 0.2 * len(costs))
    axes = figure.add_subplot()
    all_sizes = [_sizes(each) for each in costs]
    # NaN: unknown. A logarithmic axis has no 0.
    known = [name for name in SENT if any(sizes[name] > 0 for sizes in all_sizes)]
    for number, (each, by_name) in enumerate(zip(costs, all_sizes, strict=True)):
        sizes = np.array([by_name[name] for name in known])
        shown = sizes > 0
        # Beside each other: equal sizes would cover each other.
        places = np.arange(len(known))[shown] + 0.14 * (number - (len(costs) - 1) / 2)
        axes.plot(sizes[shown], places, "o", color=each.line.colour, markersize=7, label=each.name)
        # Numbers of several runs would cover each other; the table has them.
        if len(costs) == 1:
            for size, place in zip(sizes[shown], places, strict=True):
                axes.text(size, place - 0.2, f"{size:,.1f}", ha="center", fontsize=8)
    axes.set_yticks(range(len(known)), known)
    axes.set(xlabel="bytes for a decision of one agent", ylim=(len(known) - 0.5, -0.6))
    axes.margins(x=0.15)
    figures.make_logarithmic(axes.xaxis)
    figures.add_legend(axes, columns=2)
    return panel(as_svg(figure, "bytes of a decision"), "Equal distances are equal factors.")


def _sizes(costs: Costs) -> dict[str, float]:
    """Returns the bytes of a run that has decisions, by the names in SENT."""
    assert costs.total
    return {name: getattr(costs.total.bytes, key) for name, key in SENT.items()}


def _histogram_panel(costs: Costs, bits: Sizes) -> Html:
    figure = figures.new_figure(*PANEL)
    axes = figure.add_subplot()
    for label, shares, style in (("sent", bits.sent, "-"), ("by the model", bits.ideal, "--")):
        axes.stairs(100 * shares, bits.edges, label=label, linestyle=style, linewidth=1.6)
    axes.set(xlabel="bits for a decision of one agent", ylabel="share of messages, %")
    axes.set_title(f"{costs.name}: sent against the entropy model")
    figures.add_legend(axes, columns=2)
    text = (
        "What the coder sent beside what its entropy model says the symbols are worth. A gap"
        f" between the two is the coder's overhead: {bits.overhead:+.1%} on the mean."
    )
    return panel(as_svg(figure, f"bits of messages, {costs.name}"), text)


def usage_section(costs: list[Costs]) -> Html:
    parts = []
    shown = [(each, usage_of(each.run)) for each in _first_of_lines(costs)]
    known = [(each, usage) for each, usage in shown if usage]
    if known:
        parts.append(_usage_panel(known, "cores", "processors in use, cores"))
        parts.append(_usage_panel(known, "megabytes", "resident memory, MB"))
    told: list[Html] = [panels(parts)]
    if not known:
        told = [paragraph("No usage was recorded more than once, so its course is unknown.")]
    reasons = [line for each in costs for line in energy_notes(each.report.energy)]
    told += [paragraph(f"{line[:1].upper()}{line[1:]}.") for line in dict.fromkeys(reasons)]
    return section("usage", "Processor, memory, energy", told)


def _usage_panel(shown: list[tuple[Costs, Usage]], what: str, label: str) -> Html:
    figure = figures.new_figure(PANEL[0], PANEL[1] + 0.3 * len(shown))
    axes = figure.add_subplot()
    for costs, usage in shown:
        for role, style in (("server", "-"), ("executors", "--")):
            values = getattr(usage, what).get(role)
            if values is not None:
                how = {"color": costs.line.colour, "linestyle": style}
                figures.draw_line(
                    axes, usage.minutes, values, marker="", label=f"{costs.name}, {role}", **how
                )
    axes.set(xlabel="time since the start, minutes", ylabel=label, ylim=(0, None))
    figures.add_legend(axes, columns=2)
    return panel(as_svg(figure, label), "Of executors: all of them together.")


def headline(costs: Costs) -> list[str]:
    """Returns the lines of a card about what a run's decisions cost."""
    total = costs.total
    if not total:
        return ["costs unknown: no decisions were recorded"]
    size = total.bytes
    lines = [f"{size.payload:.1f} bytes a decision"]
    if size.payload > 0 and not math.isnan(size.float32) and costs.run.codec != "none":
        lines[0] += f", {size.float32 / size.payload:.1f} times less than float32"
    whole = total.latency["whole"]
    if not math.isnan(whole.p50):
        lines.append(f"{whole.p50 / 1e3:,.2f} ms a message (p99 {whole.p99 / 1e3:,.2f} ms)")
    return lines
