"""Deals the agents of executors that are lost to those that are there (`link.on_fault=redeal`).

The server holds the environments and an executor keeps nothing but what the server published. So
another executor that gets an agent's net goes on with it from the next decision.
"""

from __future__ import annotations

from sde_harl.server.assignment import deal
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

    def deal(self) -> Executors:
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
        held = {rank: [*self._executors[rank]] for rank in sorted(there)}
        deal(sorted(orphans), held)
        dealt: Executors = {}
        for rank, agents in held.items():
            gained = {*agents} - {*self._executors[rank]}
            if gained:
                dealt[rank] = tuple(sorted(gained))
                self._executors[rank] = tuple(sorted(agents))
        # The frames that are kept have room for the agents of before.
        self._sender.forget_frames()
        for rank in dealt:
            self._publisher.welcome_again(rank)
        return dealt
