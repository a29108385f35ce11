"""Tells which agents share a group net, and how far apart their identities' embeddings are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sde_harl.errors import UserError
from sde_harl.record.reader import Run
from sde_harl.record.schema import Array


@dataclass(frozen=True, kw_only=True)
class Agent:
    """Holds an agent's place among the groups.

    Distances are NaN where groups weren't learnt, or where there is no such agent.
    """

    name: str
    unit_type: str
    group: int
    to_itself: float  # between its two halves
    to_own_group: float  # mean over the others of its group
    to_next_group: float  # mean over the nearest of the other groups


@dataclass(frozen=True, kw_only=True)
class RoleGroups:
    """Holds a run's role groups."""

    path: str
    env: str
    seed: str
    source: str
    groups: list[list[int]]
    agents: list[Agent]
    points: list[list[list[float]]]  # (N, H, Z): agents, halves, embedding; empty: not learnt
    index: dict[int, float]  # by number of groups


class _Distances(NamedTuple):
    to_itself: float
    to_own_group: float
    to_next_group: float


UNKNOWN = _Distances(to_itself=math.nan, to_own_group=math.nan, to_next_group=math.nan)


def role_groups(run: Run) -> RoleGroups:
    """Returns a run's role groups.

    Raises UserError where the file has no groups, or where they don't fit its agents.
    """
    groups = run.json_list("groups")
    own = _group_of_each(run, groups)
    points = _points(run, len(own))
    return RoleGroups(
        path=str(run.path),
        env=run.env,
        seed=run.seed,
        source=run.text("roles_source"),
        groups=groups,
        agents=_agents(run, own, points),
        points=points.tolist(),
        index=_index(run),
    )


def _group_of_each(run: Run, groups: list[Any]) -> Array:
    """Returns the number of each agent's group (N,)."""
    names = run.json_list("agents")
    group_of = {agent: number for number, group in enumerate(groups) for agent in group}
    # The file may be damaged, or of a version that had no groups.
    if not groups or sorted(group_of) != list(range(len(names))):
        raise UserError(f"{run.path}: /meta tells no groups of its {len(names)} agents")
    return np.array([group_of[agent] for agent in range(len(names))])


def _agents(run: Run, groups: Array, points: Array) -> list[Agent]:
    names = run.json_list("agents")
    types = _unit_types(run, len(names))
    return [
        Agent(
            name=str(name),
            unit_type=types[agent],
            group=int(groups[agent]),
            **_distances(points, groups, agent)._asdict(),
        )
        for agent, name in enumerate(names)
    ]


def _unit_types(run: Run, agents: int) -> list[Any]:
    # Most environments know no unit types.
    types = run.json_list("unit_types") or [""] * agents
    if len(types) != agents:
        raise UserError(f"{run.path}: /meta tells no groups of its {agents} agents")
    return types


def _index(run: Run) -> dict[int, float]:
    scores = run.table("role_scores")
    if not scores:
        return {}
    return dict(zip(scores["groups"].tolist(), scores["index"].tolist(), strict=True))


def _points(run: Run, agents: int) -> Array:
    """Returns the embeddings (N, H, Z), or an empty array where none were learnt."""
    table = run.table("roles")
    if not table:
        return np.zeros(0)
    columns = [values for name, values in table.items() if name.startswith("mu_")]
    flat = np.stack(columns, -1)  # (N * H, Z): the halves of an agent stand together
    if len(flat) % agents:
        raise UserError(f"{run.path}: /roles holds {len(flat)} rows for {agents} agents")
    return flat.reshape(agents, -1, flat.shape[-1])  # (N, H, Z)


def _distances(points: Array, groups: Array, agent: int) -> _Distances:
    """points: (N, H, Z), or empty; groups: (N,), the agents' groups."""
    if not points.size:
        return UNKNOWN
    centres = points.mean(1)  # (N, Z)
    apart = np.linalg.norm(centres[agent] - centres, axis=-1)  # (N,)
    own = groups[agent]
    members = (groups == own) & (np.arange(len(groups)) != agent)
    to_others = [float(apart[groups == other].mean()) for other in set(groups) - {own}]
    return _Distances(
        to_itself=float(np.linalg.norm(points[agent, 0] - points[agent, -1])),
        to_own_group=_mean(apart[members]),
        to_next_group=min(to_others, default=math.nan),
    )


def _mean(distances: Array) -> float:
    # An agent that is alone in its group has no distances there; numpy would warn of it.
    if not len(distances):
        return math.nan
    return float(distances.mean())
