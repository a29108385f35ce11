"""Which executor holds which agents."""

from __future__ import annotations

from sde_harl.errors import UserError


def assign_agents(
    agents: int, executors: int, pinned: dict[int, int]
) -> dict[int, tuple[int, ...]]:
    """Returns the agents of each executor rank: pinned ones first, each other one where fewest are.

    `pinned` maps agents to ranks. Raises UserError where an executor would have no agent, or a pin
    names none.
    """
    if executors > agents:
        raise UserError(
            f"-np {executors + 1}: {agents} agents keep at most {agents} executors busy; "
            f"use -np {agents + 1} or less"
        )
    hands: list[list[int]] = [[] for _ in range(executors)]
    for agent, rank in pinned.items():
        if not 0 <= agent < agents or not 1 <= rank <= executors:
            raise UserError(
                f"placement.assign: agent {agent} on rank {rank}: "
                f"agents are 0..{agents - 1}, ranks 1..{executors}"
            )
        hands[rank - 1].append(agent)
    for agent in range(agents):
        if agent not in pinned:
            # min returns the first of equals, so that agents are dealt in turn.
            min(hands, key=len).append(agent)
    for rank, hand in enumerate(hands, start=1):
        if not hand:
            raise UserError(
                f"placement.assign: no agent is left for rank {rank} of -np {executors + 1}"
            )
    return {rank: tuple(sorted(hand)) for rank, hand in enumerate(hands, start=1)}
