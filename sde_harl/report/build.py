"""Puts the report's sections together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

import numpy as np

from sde_harl import __version__
from sde_harl.analysis.uncertainty import iqm
from sde_harl.record.reader import Run
from sde_harl.report.about import (
    faults_section,
    roles_section,
    runs_section,
    settings_section,
    steps_of,
)
from sde_harl.report.costs import Costs, costs_of, headline, latency_section
from sde_harl.report.learning import comparison_section, learning_section
from sde_harl.report.lines import Line, find_lines
from sde_harl.report.page import Html, card, heading, page, paragraph, tag, text
from sde_harl.report.sizes import bytes_section
from sde_harl.report.usage import usage_section


def build(runs: Sequence[Run]) -> str:
    """Returns the page about these runs. Raises UserError where a record is damaged."""
    lines = find_lines(runs)
    costs = costs_of(lines)
    sections = {
        "What was learnt": learning_section(lines),
        "Comparison": comparison_section(lines),
        "Latency": latency_section(costs),
        "Bytes": bytes_section(costs),
        "Usage": usage_section(costs),
        "Faults": faults_section(lines),
        "Role groups": roles_section(lines),
        "Runs": runs_section(lines),
        "Configuration": settings_section(lines),
    }
    shown = {name: each for name, each in sections.items() if each is not None}
    title = _title(lines)
    return page(title, [_top(title, lines, costs), _links(shown), *shown.values(), _foot()])


def _title(lines: list[Line]) -> str:
    return ", ".join(dict.fromkeys(line.env for line in lines))


def _top(title: str, lines: list[Line], costs: list[Costs]) -> Html:
    first = {each.line.number: each for each in reversed(costs)}
    cards = [_card(line, first.get(line.number)) for line in lines]
    top = [heading(title, 1), tag("div", Html("".join(cards)), "cards")]
    if len(lines) > 1:
        note = (
            "Runs stand together where they differ in nothing but the seed. A name says what else"
            " differs; the section on configuration has every key."
        )
        top.append(paragraph(note, "soft"))
    return Html("".join(top))


def _card(line: Line, costs: Costs | None) -> Html:
    below = []
    if costs:
        below = headline(costs)
    seeds = ", ".join(run.seed for run in line.runs)
    word = "seed" if len(line.runs) == 1 else "seeds"
    steps = max(steps_of(run) for run in line.runs)
    return card(
        f"{line.letter}  {line.name}",
        _result(line),
        [*below, f"{word} {seeds}; {steps:,} steps"],
    )


def _result(line: Line) -> str:
    """Returns the last score as text, with its interval where there are several seeds."""
    if not line.curves:
        return "no result yet"
    last = iqm([np.array([each.values[-1] for each in line.curves])])
    value, low, high = (float(each) for each in last)
    source = "" if line.source == "evaluations" else " in training"
    if line.measure == "win rate":
        ends = "" if np.isnan(low) else f" ({low:.0%} to {high:.0%})"
        return f"{value:.1%} won{source}{ends}"
    ends = "" if np.isnan(low) else f" ({low:.2f} to {high:.2f})"
    return f"return {value:.2f}{source}{ends}"


def _links(sections: dict[str, Html]) -> Html:
    # A section begins with its anchor, which section() has written.
    names = [each.partition('id="')[2].partition('"')[0] for each in sections.values()]
    links = [
        f'<a href="#{name}">{text(title)}</a>' for name, title in zip(names, sections, strict=True)
    ]
    return Html(f"<nav>{''.join(links)}</nav>")


def _foot() -> Html:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return tag("footer", text(f"Written by sde-harl report {__version__}, {now}."), "soft")
