"""The TABLES message: the coding tables that one or several agents of an executor share."""

from __future__ import annotations

import numpy as np

from sde_harl.link.wire import WireError

# As large as the header's field for an agent, so that every agent fits.
AGENT = np.dtype("<u2")


def pack_tables(agents: list[int], tables: bytes) -> bytes:
    """Returns a TABLES payload: a count of agents, the agents, and their tables."""
    return np.array([len(agents), *agents], AGENT).tobytes() + tables


def tables_head(agents: int) -> int:
    """Returns the bytes of a TABLES payload before the tables."""
    return AGENT.itemsize * (1 + agents)


def unpack_tables(payload: memoryview) -> tuple[list[int], memoryview]:
    """Returns the agents and the tables' bytes of a TABLES payload. Raises WireError("tables")."""
    if len(payload) < tables_head(0):
        raise WireError("tables")
    # The count comes from the wire: it is checked before anything is read by it.
    count = int(np.frombuffer(payload, AGENT, 1)[0])
    if not count or len(payload) < tables_head(count):
        raise WireError("tables")
    agents: list[int] = np.frombuffer(payload, AGENT, count, tables_head(0)).tolist()
    return agents, payload[tables_head(count) :]
