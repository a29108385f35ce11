"""Writes what processes used over time, and what is known of energy."""

from __future__ import annotations

from sde_harl.analysis import figures
from sde_harl.analysis.energy import energy_notes
from sde_harl.report.costs import Costs, first_of_lines
from sde_harl.report.moments import Usage, usage_of
from sde_harl.report.page import Html, panel, panels, paragraph, section
from sde_harl.report.svg import PANEL, as_svg


def usage_section(costs: list[Costs]) -> Html:
    parts = []
    shown = [(each, usage_of(each.run)) for each in first_of_lines(costs)]
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
