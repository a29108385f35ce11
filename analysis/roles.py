"""Show which agents share a group net, and the embedding from which the groups were learnt.

python analysis/roles.py RUN.h5 [RUN2.h5 ...] [--plot FILE.png] [--json]

The index is Davies and Bouldin's for each number of groups; less is better. docs/roles.md explains
how it is used. A distance is between the centres of two agents' embeddings. "to itself" is the
distance between the agent's own two halves: compare the others with it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from sde_harl.analysis import figures, program, tables
from sde_harl.analysis.each_run import of_each
from sde_harl.analysis.role_groups import Agent, RoleGroups, role_groups
from sde_harl.record.reader import Run
from sde_harl.record.schema import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 110  # where the output is no terminal
MARKERS = "osD^vP*Xhd<>p8H"
COLUMNS = ("group", "agent", "unit type", "to itself", "to its group", "to the next")


def show(found: RoleGroups, console: Console) -> None:
    """Prints a table of the agents and one of the scores."""
    groups = f"{len(found.groups)} group(s), {found.source}"
    tables.print_line(console, f"{found.path}: {found.env}, seed {found.seed}; {groups}")
    table = tables.new_table(COLUMNS, left=("agent", "unit type"))
    for each in sorted(found.agents, key=lambda agent: agent.group):
        distances = (each.to_itself, each.to_own_group, each.to_next_group)
        cells = [tables.number(distance, ".3f") for distance in distances]
        table.add_row(str(each.group), each.name, each.unit_type or "-", *cells)
    console.print(table)
    # Runs whose groups weren't learnt have no scores.
    if found.index:
        _show_scores(found.index, console)


def _show_scores(index: dict[int, float], console: Console) -> None:
    names = ["groups", *map(str, index)]
    scores = tables.new_table(names, left=names)
    scores.add_row("index", *(f"{value:.3f}" for value in index.values()))
    console.print(scores)


def plot(runs: list[RoleGroups], target: Path) -> None:
    """Draws a row for each run: the embedding on its two main axes, and the index."""
    figure = figures.new_figure(10, 4 * len(runs))
    panels = figure.subplots(len(runs), 2, squeeze=False)
    for (left, right), found in zip(panels, runs, strict=True):
        _draw_embedding(left, found)
        _draw_index(right, found)
    figures.save(figure, target)


def _draw_index(axes: Axes, found: RoleGroups) -> None:
    """Draws the index over the number of groups."""
    if not found.index:
        figures.say(axes, "Groups were not learnt, so there is no index of other numbers of them.")
        return
    figures.draw_line(axes, list(found.index), list(found.index.values()))
    # The number taken is not always the lowest index: a user may have chosen it.
    axes.axvline(len(found.groups), color="0.7", linestyle="--")
    axes.set(xlabel="groups (dashed: taken)", ylabel="Davies-Bouldin index, 1", ylim=(0, None))
    axes.set_xticks(list(found.index))


def _draw_embedding(axes: Axes, found: RoleGroups) -> None:
    """Draws each agent's halves joined by a line; a colour is a group, a marker a unit type."""
    axes.set(
        title=f"{found.env}, seed {found.seed}",
        xlabel="1st axis of the embedding",
        ylabel="2nd axis",
    )
    if found.points:
        _draw_agents(axes, found)
    else:
        groups = tables.plural(len(found.groups), "group")
        figures.say(axes, f"{found.env}, seed {found.seed}: {groups}, not learnt ({found.source}).")


def _draw_agents(axes: Axes, found: RoleGroups) -> None:
    types = sorted({each.unit_type for each in found.agents})
    labelled = set()
    halves_of_agents = _project(np.array(found.points))  # (N, H, 2)
    for halves, each in zip(halves_of_agents, found.agents, strict=True):
        label: str | None = _label(each)
        # The legend names every group and type once.
        if label in labelled:
            label = None
        labelled.add(label)
        marker = MARKERS[types.index(each.unit_type) % len(MARKERS)]
        colour = f"C{each.group}"
        axes.plot(*halves.T, color=colour, marker=marker, linestyle="-", alpha=0.7, label=label)
    figures.add_legend(axes, columns=2)


def _project(points: Array) -> Array:
    """Returns the points (N, H, Z) on their two principal axes (N, H, 2)."""
    # Centred first: the axes of the SVD pass through the origin.
    centred = points - points.mean((0, 1))
    flat = centred.reshape(-1, points.shape[-1])  # (N * H, Z)
    # The rows of the last factor are the principal axes, the longest first.
    _, _, axes = np.linalg.svd(flat, full_matrices=False)
    projected: Array = centred @ axes[:2].T
    return projected


def _label(agent: Agent) -> str:
    if agent.unit_type:
        return f"group {agent.group}, {agent.unit_type}"
    return f"group {agent.group}"


def find(runs: list[Run], args: argparse.Namespace) -> program.Findings:
    found = of_each(runs, role_groups)

    def show_all(console: Console) -> None:
        for each in found:
            show(each, console)

    return program.Findings(
        rows=[asdict(each) for each in found],
        show=show_all,
        plot=lambda target: plot(found, target),
    )


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or written."""
    parser = program.argument_parser(__doc__)
    program.add_figure_options(
        parser, drawn="embeddings and indices", printed="all of it as JSON instead of the tables"
    )
    return program.run_and_show(parser, WIDTH, find)


if __name__ == "__main__":
    sys.exit(main())
