"""Writes what ran where, what went wrong, who shares a group net, and how runs were configured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from sde_harl.analysis import figures, tables
from sde_harl.analysis.alike import settings
from sde_harl.analysis.each_run import of_run
from sde_harl.analysis.role_groups import RoleGroups, role_groups
from sde_harl.analysis.run_config import setting
from sde_harl.errors import UserError
from sde_harl.record.progress import clock
from sde_harl.record.reader import Columns, Run
from sde_harl.report.lines import Line
from sde_harl.report.page import Html, details, heading, panel, panels, paragraph, section, table
from sde_harl.report.svg import PANEL, as_svg

MOST_FAULTS = 40
"""Rows of the table of faults."""
WHAT_RAN = (
    *("line", "method", "environment", "seed", "steps", "asked for", "took"),
    *("placement", "hosts", "code", "started", "file"),
)


def runs_section(lines: list[Line]) -> Html:
    rows = [_what_ran(line, run) for line in lines for run in line.runs]
    emulated = dict.fromkeys(run.emulated for line in lines for run in line.runs if run.emulated)
    notes = [paragraph(f"Emulated: {each}.", "soft") for each in emulated]
    return section("runs", "What ran where", [table(WHAT_RAN, rows), *notes])


def _what_ran(line: Line, run: Run) -> list[str]:
    return [
        line.letter,
        line.method,
        run.env,
        run.seed,
        f"{steps_of(run):,}",
        _planned(run),
        _duration(run),
        _placement(run),
        ", ".join(dict.fromkeys(_host(each) for each in run.json_list("hosts"))) or "unknown",
        run.text("git_revision"),
        run.text("started")[:16].replace("T", " "),
        str(run.path),
    ]


def steps_of(run: Run) -> int:
    """Returns the environment steps that the run has played by its record."""
    names = ("training", "evaluations", "resources")
    found = [run.table(name).get("step", np.zeros(0)) for name in names]
    return max((int(steps.max()) for steps in found if len(steps)), default=0)


def _planned(run: Run) -> str:
    try:
        return f"{setting(run, 'train.steps', kind=int):,}"
    except UserError:
        return "unknown"


def _duration(run: Run) -> str:
    times = run.table("resources").get("time_s", np.zeros(0))
    known = times[np.isfinite(times)]
    if not len(known):
        return "unknown"
    return clock(float(min(known.max(), 1e9)))


def _placement(run: Run) -> str:
    return f"{run.text('placement')}, {tables.plural(run.number('executors'), 'executor')}"


def _host(entry: Any) -> str:
    # Older records hold the host's name alone.
    if isinstance(entry, dict):
        return f"{entry.get('host', '?')} ({entry.get('arch', '?')})"
    return str(entry)


def faults_section(lines: list[Line]) -> Html:
    counts: Counter[tuple[str, ...]] = Counter()
    for line in lines:
        for run in line.runs:
            for (rank, agent, kind), count in _counted(run.table("faults")).items():
                counts[f"{line.letter}, seed {run.seed}", rank, agent, kind] += count
    if not counts:
        nothing = "No message was refused, no executor was absent or lost, and no game failed."
        return section("faults", "Faults", [paragraph(nothing)])
    rows = [(*where, f"{count:,}") for where, count in counts.most_common(MOST_FAULTS)]
    parts = [table(("run", "rank", "agent", "what", "times"), rows)]
    if len(counts) > len(rows):
        parts.append(paragraph(f"{len(counts) - len(rows):,} rarer kinds are left out.", "soft"))
    return section("faults", "Faults", parts)


def _counted(faults: Columns) -> dict[tuple[str, str, str], int]:
    """Returns how often each fault is in the table, by rank, agent and kind."""
    if not faults:
        return {}
    rows = np.rec.fromarrays([faults[name] for name in ("rank", "agent", "kind")])
    kinds, counts = np.unique(rows, return_counts=True)
    return {
        (str(rank), _agent(agent), kind.decode(errors="replace")): int(count)
        for (rank, agent, kind), count in zip(kinds.tolist(), counts, strict=True)
    }


def _agent(number: int) -> str:
    if number < 0:
        return "unknown"
    return str(number)


def roles_section(lines: list[Line]) -> Html:
    """Writes the groups of each line's first run."""
    parts: list[Html] = []
    for line in lines:
        run = line.runs[0]
        title = heading(f"{line.letter}: {line.method}, seed {run.seed}")
        try:
            found = of_run(run, role_groups)
        except UserError as error:
            parts += [title, paragraph(f"Unknown: {error}")]
            continue
        rows = [
            (number, len(group), ", ".join(_named(found, agent) for agent in group))
            for number, group in enumerate(found.groups)
        ]
        parts += [title, table(("group", "agents", "which"), rows)]
        parts.append(_source(found))
    note = "The agents of a group share layers at the server; each has a local net and head."
    return section("roles", "Role groups", [paragraph(note, "soft"), *parts])


def _named(found: RoleGroups, agent: int) -> str:
    each = found.agents[agent]
    if each.unit_type and each.unit_type not in each.name:
        return f"{each.name} ({each.unit_type})"
    return each.name


def _source(found: RoleGroups) -> Html:
    if not found.index and found.source == "learnt":
        return paragraph("Learnt, by indices that the record doesn't hold.", "soft")
    if not found.index:
        return paragraph(f"Groups were not learnt: they are from {found.source}.", "soft")
    figure = figures.new_figure(*PANEL)
    axes = figure.add_subplot()
    figures.draw_line(axes, list(found.index), list(found.index.values()))
    axes.axvline(len(found.groups), color=figures.INK, linestyle=":")
    axes.set(xlabel="number of groups (dotted: taken)", ylabel="Davies-Bouldin index, 1")
    axes.set(ylim=(0, None))
    axes.set_xticks(list(found.index))
    svg = as_svg(figure, f"index of the number of groups, {found.path}")
    return panels([panel(svg, "Learnt from random play. Less is better.")])


def settings_section(lines: list[Line]) -> Html:
    """Writes the keys in which the runs differ, and the whole configuration of each line."""
    firsts = [line.runs[0] for line in lines]
    found = [settings(run) for run in firsts]
    keys = list(dict.fromkeys(key for each in found for key in each))
    rows = [[key, *(each.get(key, "-") for each in found)] for key in keys]
    letters = [line.letter for line in lines]
    unlike = [row for row in rows if len(set(row[1:])) > 1]
    parts: list[Html] = []
    if unlike:
        parts = [paragraph("The keys in which lines differ:"), table(["key", *letters], unlike)]
    elif len(lines) > 1:
        parts = [paragraph("The lines differ in no key of the configuration.")]
    whole = table(["key", *letters], rows)
    versions = _versions(firsts)
    parts.append(details(f"The whole configuration ({len(keys)} keys; first run of a line)", whole))
    parts.append(details("Versions of what ran", table(["package", *letters], versions)))
    return section("settings", "Configuration", parts)


def _versions(runs: Sequence[Run]) -> list[list[str]]:
    found = [run.json_object("versions") for run in runs]
    names = list(dict.fromkeys(name for each in found for name in each))
    return [[name, *(str(each.get(name, "-")) for each in found)] for name in names]
