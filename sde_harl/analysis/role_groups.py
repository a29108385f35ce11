"""Tells which agents share a group net, and how far apart their identities' embeddings are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

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
    names = run.json_list("agents")
    groups = run.json_list("groups")
    # Most environments know no unit types.
    types = run.json_list("unit_types") or [""] * len(names)
    group_of = {agent: number for number, group in enumerate(groups) for agent in group}
    if not groups or sorted(group_of) != list(range(len(names))) or len(types) != len(names):
        raise UserError(f"{run.path}: /meta tells no groups of its {len(names)} agents")
    points = _points(run, len(names))
    own = np.array([group_of[agent] for agent in range(len(names))])
    agents = [
        Agent(
            name=str(name),
            unit_type=types[agent],
            group=group_of[agent],
            **_distances(points, own, agent)._asdict(),
        )
        for agent, name in enumerate(names)
    ]
    return RoleGroups(
        path=str(run.path),
        env=run.env,
        seed=run.seed,
        source=str(run.meta.get("roles_source", "unknown")),
        groups=groups,
        agents=agents,
        points=points.tolist(),
        index=_index(run),
    )


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
    to_own_group = math.nan  # it may be alone in its group
    if members.any():
        to_own_group = float(apart[members].mean())
    to_others = [float(apart[groups == other].mean()) for other in set(groups) - {own}]
    return _Distances(
        to_itself=float(np.linalg.norm(points[agent, 0] - points[agent, -1])),
        to_own_group=to_own_group,
        to_next_group=min(to_others, default=math.nan),
    )
