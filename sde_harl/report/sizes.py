"""Writes how many bytes decisions took, and what they would take otherwise."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sde_harl.analysis import figures, tables
from sde_harl.analysis.each_run import of_run
from sde_harl.analysis.message_sizes import Bytes
from sde_harl.report.costs import Costs, evaluated_bytes, first_of_lines
from sde_harl.report.moments import Sizes, message_bits
from sde_harl.report.page import Html, panel, panels, paragraph, section, table
from sde_harl.report.svg import PANEL, as_svg
from sde_harl.report.symbols import sent_symbols, symbols_panel, why_none

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


def bytes_section(costs: list[Costs]) -> Html:
    known = [each for each in costs if each.total]
    symbols = _symbols(first_of_lines(costs))
    if not known:
        last = [(each.name, tables.number(evaluated_bytes(each.run), ".1f")) for each in costs]
        note = "No single decisions were recorded (record.decisions: false), only their means."
        told = [paragraph(note), table(("run", "bytes, last evaluation"), last)]
        told += [panels(symbols.drawn), *symbols.told]
        return section("bytes", "Bytes of a decision", told)
    parts = [_bytes_panel(first_of_lines(known))]
    for each in first_of_lines(known):
        bits = message_bits(each.run)
        if bits:
            parts.append(_histogram_panel(each, bits))
    head = ("run", *SENT, "float32 over payload")
    rows = [_bytes_row(each.name, each.total.bytes) for each in known if each.total]
    told = [panels([*parts, *symbols.drawn]), *symbols.told, table(head, rows)]
    return section("bytes", "Bytes of a decision", told)


class _Symbols(NamedTuple):
    """Panels of symbols, and a sentence for each run that has none."""

    drawn: list[Html]
    told: list[Html]


def _symbols(costs: list[Costs]) -> _Symbols:
    shown = _Symbols(drawn=[], told=[])
    for each in costs:
        found = of_run(each.run, sent_symbols)
        if found:
            shown.drawn.append(symbols_panel(each.name, found))
        else:
            sentence = f"{each.name}: no histogram of symbols, {why_none(each.run)}."
            shown.told.append(paragraph(sentence, "soft"))
    return shown


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
