"""The two goodbyes: an executor's, which can't go on, and the server's, which ends the run."""

from __future__ import annotations

from typing import NamedTuple

from sde_harl.link.transport import SERVER, Transport
from sde_harl.link.wire import Header, Kind, Message

LONGEST_REASON = 4096
"""Bytes of a reason that are sent."""


class Farewell(NamedTuple):
    """The server's goodbye."""

    reason: str
    """Why the run has ended, "" where all is well."""
    is_killed: bool
    """True where the server ends this process too, because it can't reach all others."""


def read_farewell(message: Message) -> Farewell:
    """Returns what a BYE of the server says."""
    # The goodbye's step is the number of executors that the server can't reach.
    return Farewell(
        reason=bytes(message.payload).decode("utf-8", "replace"),
        is_killed=message.header.step > 0,
    )


def say_bye(transport: Transport, reason: str) -> None:
    """Tells the server why this executor can't go on."""
    payload = reason.encode("utf-8", "replace")[:LONGEST_REASON]
    transport.send(SERVER, Header(kind=Kind.BYE), payload)
