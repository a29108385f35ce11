"""Deals the agents of executors that are lost to those that are there (`link.on_fault=redeal`).

The server holds the environments and an executor keeps nothing but what the server published. So
another executor that gets an agent's net goes on with it from the next decision.
"""

from __future__ import annotations

from collections.abc import Mapping

from sde_harl.server.membership import Membership
from sde_harl.server.publisher import Publisher
from sde_harl.server.sender import Sender

Executors = dict[int, tuple[int, ...]]
"""Ranks -> agents."""


class Redealer:
    """Changes who holds which agents; all parts of a pool look it up in the same mapping."""

    def __init__(
        self,
        executors: Executors,
        *,
        membership: Membership,
        publisher: Publisher,
        sender: Sender,
    ) -> None:
        self._executors = executors
        self._membership = membership
        self._publisher = publisher
        self._sender = sender

    def deal(self) -> dict[int, tuple[int, ...]]:
        """Deals what lost executors hold; returns who holds which of it now, by rank.

        While no executor is there, everything stays as it is.
        """
        membership = self._membership
        there = self._executors.keys() - membership.absent
        orphans = [
            agent
            for rank in membership.lost & self._executors.keys()
            for agent in self._executors[rank]
        ]
        if not orphans or not there:
            return {}
        for rank in membership.lost:
            self._executors.pop(rank, None)
        dealt = _shares(sorted(orphans), {rank: len(self._executors[rank]) for rank in there})
        for rank, agents in dealt.items():
            self._executors[rank] = tuple(sorted((*self._executors[rank], *agents)))
        # The frames that are kept have room for the agents of before.
        self._sender.forget_frames()
        for rank in dealt:
            self._publisher.welcome_again(rank)
        return dealt


def _shares(agents: list[int], held: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
    """Gives each agent to the rank that holds the fewest by then; `held`: how many each has."""
    held = dict(held)
    shares: dict[int, tuple[int, ...]] = {}
    for agent in agents:
        rank = min(held, key=lambda each: (held[each], each))
        held[rank] += 1
        shares[rank] = (*shares.get(rank, ()), agent)
    return shares
