"""Deals the agents of executors that are lost to those that are there (`link.on_fault=redeal`).

The server holds the environments and an executor keeps nothing but what the server published. So
another executor that gets an agent's net goes on with it from the next decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Protocol

from sde_harl.server.assignment import deal, numbered
from sde_harl.server.publisher import Publisher
from sde_harl.server.sender import Sender

Executors = dict[int, tuple[int, ...]]
"""Ranks -> agents."""


class Dealer(Protocol):
    """Deals what lost executors did to others."""

    def deal(self, lost: AbstractSet[int], absent: AbstractSet[int]) -> Mapping[int, str]:
        """Deals to the executors that are not `absent`; says by rank what those do from now on.

        While none is there, everything stays as it is.
        """


class Redealer:
    """Changes who holds which agents; all parts of a pool look it up in the same mapping."""

    def __init__(
        self,
        executors: Executors,
        *,
        publisher: Publisher,
        sender: Sender,
    ) -> None:
        self._executors = executors
        self._publisher = publisher
        self._sender = sender

    def deal(self, lost: AbstractSet[int], absent: AbstractSet[int]) -> dict[int, str]:
        """Deals what lost executors hold; `Dealer` has the rest."""
        there = self._executors.keys() - absent
        orphans = [
            agent for rank in lost & self._executors.keys() for agent in self._executors[rank]
        ]
        if not orphans or not there:
            return {}
        for rank in lost:
            self._executors.pop(rank, None)
        held = {rank: [*self._executors[rank]] for rank in sorted(there)}
        deal(sorted(orphans), held)
        dealt: dict[int, str] = {}
        for rank, agents in held.items():
            gained = {*agents} - {*self._executors[rank]}
            if gained:
                dealt[rank] = f"acts for {numbered('agent', sorted(gained))} from now on"
                self._executors[rank] = tuple(sorted(agents))
        # The frames that are kept have room for the agents of before.
        self._sender.forget_frames()
        for rank in dealt:
            self._publisher.welcome_again(rank)
        return dealt
