"""Which agents share a group net, and what that was learnt from: embedding, groups, an index for each number of groups.

python analysis/roles.py RUN.h5 [RUN2.h5 ...] [--plot FILE.png] [--json]

The index is Davies and Bouldin's, less is better; docs/roles.md tells how it is used. A distance is between the centres
of two agents' embeddings: "to itself" is that of the agent's own two halves, by which the others are to be judged.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from sde_harl.analysis import program
from sde_harl.errors import UserError
from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 110
MARKERS = "osD^vP*Xhd<>p8H"


@dataclass(frozen=True)
class Agent:
    """An agent's place. Distances are NaN where groups weren't learnt, or there is no such agent."""

    name: str
    unit_type: str
    group: int
    to_itself: float
    to_own_group: float  # mean over the others of its group
    to_next_group: float  # least mean over another group's


@dataclass(frozen=True)
class Roles:
    """A run's role groups."""

    path: str
    env: str
    seed: str
    source: str
    groups: list[list[int]]
    agents: list[Agent]
    points: list[
        list[list[float]]
    ]  # agents, halves, numbers of the embedding; empty where groups weren't learnt
    index: dict[int, float]  # by number of groups


def roles(run: Run) -> Roles:
    """What the file tells. Raises UserError where it has no groups, or they don't fit its agents."""
    names, groups = run.json_list("agents"), run.json_list("groups")
    types = run.json_list("unit_types") or [""] * len(names)
    group_of = {agent: k for k, group in enumerate(groups) for agent in group}
    if not groups or sorted(group_of) != list(range(len(names))) or len(types) != len(names):
        raise UserError(f"{run.path}: /meta tells no groups of its {len(names)} agents")
    points, scores = _points(run, len(names)), run.table("role_scores")
    index = dict(zip(scores["groups"].tolist(), scores["index"].tolist())) if scores else {}
    own = [group_of[k] for k in range(len(names))]
    places = zip(names, types, own, _distances(points, own))
    agents = [
        Agent(str(name), str(kind), group, *distances) for name, kind, group, distances in places
    ]
    source = str(run.meta.get("roles_source", "unknown"))
    return Roles(str(run.path), run.env, run.seed, source, groups, agents, points.tolist(), index)


def _points(run: Run, agents: int) -> Array:
    """(N, H, Z), or empty."""
    table: Columns = run.table("roles")
    if not table:
        return np.zeros(0)
    flat = np.stack([column for name, column in table.items() if name.startswith("mu_")], -1)
    if len(flat) % agents:
        raise UserError(f"{run.path}: /roles holds {len(flat)} rows for {agents} agents")
    return flat.reshape(agents, -1, flat.shape[-1])


def _distances(points: Array, own: list[int]) -> list[tuple[float, float, float]]:
    """Each agent's to itself, to its group and to the next one; `own` are their groups."""
    if not points.size:
        return [(np.nan, np.nan, np.nan)] * len(own)
    centres, groups = points.mean(1), np.array(own)
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1)  # (N, N)
    found = []
    for k, group in enumerate(own):
        others = (groups == group) & (np.arange(len(own)) != k)
        to_others = [float(apart[k, groups == other].mean()) for other in set(own) - {group}]
        near = float(apart[k, others].mean()) if others.any() else np.nan
        found.append(
            (
                float(np.linalg.norm(points[k, 0] - points[k, -1])),
                near,
                min(to_others, default=np.nan),
            )
        )
    return found


def show(found: Roles, console: Console) -> None:
    """Print a table of the agents and one of the scores."""
    title = f"{found.path}: {found.env}, seed {found.seed}; {len(found.groups)} group(s), {found.source}"
    console.print(title, markup=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("group", "agent", "unit type", "to itself", "to its group", "to the next"):
        table.add_column(name, justify="left" if name in ("agent", "unit type") else "right")
    for each in sorted(found.agents, key=lambda agent: agent.group):
        distances = (each.to_itself, each.to_own_group, each.to_next_group)
        shown = ["-" if np.isnan(value) else f"{value:.3f}" for value in distances]
        table.add_row(str(each.group), each.name, each.unit_type or "-", *shown)
    console.print(table)
    if found.index:
        scores = Table("groups", *map(str, found.index), box=box.SIMPLE_HEAD)
        scores.add_row("index", *(f"{value:.3f}" for value in found.index.values()))
        console.print(scores)


def plot(runs: list[Roles], target: Path) -> None:
    """A row a run: the embedding on its two main axes, a colour a group, a marker a type; and the index."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4 * len(runs)), layout="constrained")
    for (left, right), found in zip(
        figure.subplots(len(runs), 2, squeeze=False), runs, strict=True
    ):
        _scatter(left, found)
        right.plot(list(found.index), list(found.index.values()), "o-")
        right.axvline(len(found.groups), color="0.7", linestyle="--")
        right.set(xlabel="groups (dashed: taken)", ylabel="Davies-Bouldin index", ylim=(0, None))
    figure.savefig(target, dpi=120)


def _scatter(axes: Axes, found: Roles) -> None:
    """Each agent's halves, joined by a line."""
    axes.set(
        title=f"{found.env}, seed {found.seed}",
        xlabel="1st axis of the embedding",
        ylabel="2nd axis",
    )
    points = np.array(found.points)
    if not points.size:
        axes.text(
            0.5, 0.5, f"groups not learnt ({found.source})", ha="center", transform=axes.transAxes
        )
        return
    flat = points.reshape(-1, points.shape[-1]) - points.mean((0, 1))
    _, _, axis = np.linalg.svd(flat, full_matrices=False)
    flat_seen = (points - points.mean((0, 1))) @ axis[:2].T  # (N, H, 2)
    types = sorted({each.unit_type for each in found.agents})
    labelled = set()
    for seen, each in zip(flat_seen, found.agents):
        label = f"group {each.group}" + (f", {each.unit_type}" if each.unit_type else "")
        marker = MARKERS[types.index(each.unit_type) % len(MARKERS)]
        shown = label if label not in labelled else None
        axes.plot(*seen.T, color=f"C{each.group}", marker=marker, alpha=0.7, label=shown)
        labelled.add(label)
    axes.legend()


def find(runs: list[Run], args: argparse.Namespace) -> program.Findings:
    found = [roles(run) for run in runs]

    def show_all(console: Console) -> None:
        for each in found:
            show(each, console)

    return program.Findings(
        [asdict(each) for each in found], show_all, lambda target: plot(found, target)
    )


def main() -> int:
    """Returns the exit code: 2 where a file can't be read or written."""
    options = program.parser(__doc__)
    program.figure_options(
        options, "embeddings and indices", "all of it as JSON instead of the tables"
    )
    return program.tell(options, WIDTH, find)


if __name__ == "__main__":
    sys.exit(main())
