"""Assigns agents to executors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sde_harl.errors import UserError


def assign_agents(
    agents: int, executors: int, pinned: dict[int, int], *, learners: int = 1
) -> dict[int, tuple[int, ...]]:
    """Returns the agents of each executor rank: the pinned ones, and an even share of the others.

    `pinned` maps agents to ranks; `learners` are the other ranks. Raises UserError where an
    executor would have no agent, or a pin names an agent or a rank that doesn't exist.
    """
    if executors > agents:
        raise UserError(
            f"-np {executors + learners}: {agents} agents keep at most {agents} executors busy; "
            f"use -np {agents + learners} or less"
        )
    _check_pins(agents, executors, pinned)
    assigned = _distribute(agents, executors, pinned)
    for rank, held in assigned.items():
        if not held:
            raise UserError(
                f"placement.assign: no agent is left for rank {rank} of -np {executors + learners}"
            )
    return {rank: tuple(sorted(held)) for rank, held in assigned.items()}


def deal_slots(slots: int, executors: int, *, learners: int = 1) -> dict[int, range]:
    """Returns the slots of environments that each executor rank plays: even shares, in order.

    `learners` are the other ranks. Raises UserError where an executor would have none.
    """
    if executors > slots:
        raise UserError(
            f"train.slots: expected {executors} or more, one for each executor of "
            f"-np {executors + learners}, got {slots} (placement.mode = envs)"
        )
    edges = [slots * k // executors for k in range(executors + 1)]
    return {k + 1: range(edges[k], edges[k + 1]) for k in range(executors)}


def _check_pins(agents: int, executors: int, pinned: dict[int, int]) -> None:
    for agent, rank in pinned.items():
        if not 0 <= agent < agents or not 1 <= rank <= executors:
            raise UserError(
                f"placement.assign: agent {agent} on rank {rank}: "
                f"agents are 0..{agents - 1}, ranks 1..{executors}"
            )


def _distribute(agents: int, executors: int, pinned: dict[int, int]) -> dict[int, list[int]]:
    """Returns the agents of each rank; a rank has none where the pins leave none for it."""
    assigned: dict[int, list[int]] = {rank: [] for rank in range(1, executors + 1)}
    for agent, rank in pinned.items():
        assigned[rank].append(agent)
    deal([agent for agent in range(agents) if agent not in pinned], assigned)
    return assigned


def deal(agents: Iterable[int], held: Mapping[int, list[int]]) -> None:
    """Gives each agent to the executor that holds the fewest by then; `held` is what each has."""
    for agent in agents:
        # min returns the first of equals, so that the ranks get agents in turn.
        min(held.values(), key=len).append(agent)


def ranks_of(executors: Mapping[int, tuple[int, ...]]) -> NDArray[np.int32]:
    """Returns (N,) the rank of each agent; `executors` maps ranks to agents."""
    ranks = np.zeros(sum(map(len, executors.values())), np.int32)
    for rank, agents in executors.items():
        ranks[list(agents)] = rank
    return ranks


def numbered(noun: str, numbers: Sequence[int]) -> str:
    """Names what was dealt by its numbers, as in "agents 1, 4"."""
    plural = "s" * (len(numbers) != 1)
    return f"{noun}{plural} {', '.join(map(str, numbers))}"
