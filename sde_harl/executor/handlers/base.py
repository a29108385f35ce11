"""The interface between an executor and a placement: the executor doesn't know where policies run.

n agents of the executor, E environments of one slot, D numbers of an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.link.wire import Message, WireError


class OnlyAnswering:
    """Holds the defaults of what only handlers change that act between two messages.

    Those are the ones of agents with sensors, and of executors that play environments.
    """

    @property
    def is_playing(self) -> bool:
        """Returns whether there is more to play, for `act_if_due`."""
        return False

    @property
    def decisions_alone(self) -> int:
        """Decisions taken so far without the server, for all agents."""
        return 0

    def wait_s(self, most_s: float) -> float:
        """Returns the seconds to wait for the server's next message, at most `most_s`."""
        return most_s

    def act_if_due(self) -> None:
        """Acts without the server if that is due; plays a step where there is one to play.

        Raises UserError where this host can't.
        """

    def pause(self) -> None:
        """Waits with acting for the next observations: the server is busy with something else."""

    def close(self) -> None:
        """Lets go of sensors and environments, if there are any."""


class Handler(OnlyAnswering, ABC):
    """Computes the part of the policies that is this executor's."""

    @abstractmethod
    def load(self, flat: NDArray[np.float32]) -> None:
        """Takes the weights of a published model. Raises ValueError where they don't fit."""

    def set_tables(self, agents: list[int], tables: memoryview) -> None:
        """Takes tables that some agents code with. Raises ValueError where they don't fit."""
        raise WireError("kind")  # the server sends none to agents that code nothing

    @abstractmethod
    def answer(self, message: Message) -> NDArray[Any] | None:
        """Answers the server's observations (a SENSOR message).

        Returns the actions (n, E, D) that the agents do at once; None where the server decides
        them.
        """

    def act(self, message: Message) -> None:
        """Takes the actions that the server has decided (an ACTIONS message)."""
        raise WireError("kind")  # the server sends none to agents that decide themselves

    def play(self, message: Message) -> None:
        """Begins to play environments of its own (a PLAY message); `act_if_due` goes on."""
        raise WireError("kind")  # the server asks only executors that have environments

    def learn(self, message: Message) -> None:
        """Takes part in an update (a LEARN message)."""
        raise WireError("kind")  # the server asks only ranks that are to learn


class NotWelcomed(Handler):
    """Refuses every message until the WELCOME says which handler this executor needs."""

    def load(self, flat: NDArray[np.float32]) -> None:
        raise WireError("kind")

    def answer(self, message: Message) -> None:
        raise WireError("kind")
