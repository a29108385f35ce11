"""The interface between an executor and a placement: the executor doesn't know where policies run.

n agents of the executor, E environments of one slot, D numbers of an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from sde_harl.link.wire import Message, WireError


class Handler(ABC):
    """Computes the part of the policies that is this executor's."""

    decisions_alone = 0
    """Decisions taken so far without the server, for all agents."""

    @abstractmethod
    def load(self, flat: np.ndarray) -> None:
        """Takes the weights of a published model. Raises ValueError where they don't fit."""

    def set_tables(self, agents: list[int], tables: memoryview) -> None:
        """Takes tables that some agents code with. Raises ValueError where they don't fit."""
        raise WireError("kind")  # the server sends none to agents that code nothing

    @abstractmethod
    def answer(self, message: Message) -> np.ndarray | None:
        """Answers the server's observations (a SENSOR message).

        Returns the actions (n, E, D) that the agents do at once; None where the server decides
        them.
        """

    def act(self, message: Message) -> None:
        """Takes the actions that the server has decided (an ACTIONS message)."""
        raise WireError("kind")  # the server sends none to agents that decide themselves

    # What follows matters only to agents with sensors: all others inherit it as it is.

    def wait_s(self, most_s: float) -> float:
        """Returns the seconds to wait for the server's next message, at most `most_s`."""
        return most_s

    def act_if_due(self) -> None:  # noqa: B027
        """Acts without the server if that is due. Raises UserError where a sensor fails."""

    def pause(self) -> None:  # noqa: B027
        """Waits with acting for the next observations: the server is busy with something else."""

    def close(self) -> None:  # noqa: B027
        """Lets go of the agents' sensors, if they have any."""


class NotWelcomed(Handler):
    """Stands for the handler until the WELCOME says which one it is: there is nothing to do yet."""

    def load(self, flat: np.ndarray) -> None:
        raise WireError("kind")

    def answer(self, message: Message) -> None:
        raise WireError("kind")
