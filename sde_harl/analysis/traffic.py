"""Bytes on the interfaces, claimed and counted: what was sent by our own count and known headers, against the kernel's.

The claim is frames + 22 a message + 66 a packet: Open MPI 5 puts 8 bytes (TCP transport) and 14 (matching) before a
message that it sends whole; a packet has Ethernet's 14 bytes, IPv4's 20 and TCP's 32 with time stamps. How many packets
there are, with TCP's bare acknowledgements, is the interface's own count. Longer messages, such as weights, are sent in
parts with more headers.
"""

from __future__ import annotations

from dataclasses import dataclass

from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array

MPI_BYTES = 22
PACKET_BYTES = 66


@dataclass(frozen=True)
class Span:
    """What one rank has sent or received between the first and the last row of /traffic: after the start, that is."""

    rank: int
    way: str  # sent, received
    messages: int
    frame_bytes: int
    packets: int
    counted_bytes: int  # by the interfaces, of all that the host sent or received

    @property
    def claimed_bytes(self) -> int:
        return self.frame_bytes + MPI_BYTES * self.messages + PACKET_BYTES * self.packets

    @property
    def excess(self) -> float:
        """Of the count over the claim, as a share of the claim."""
        return self.counted_bytes / self.claimed_bytes - 1 if self.claimed_bytes else 0.0


def spans(run: Run) -> list[Span]:
    """Every rank's, both ways; none where the interfaces are unknown (shared memory) or the run has just begun."""
    table = run.table("traffic")
    ranks = sorted({int(rank) for rank in table.get("rank", ())})
    return [
        span for rank in ranks for way in ("sent", "received") for span in _span(table, rank, way)
    ]


def _span(table: Columns, rank: int, way: str) -> list[Span]:
    names = (way, f"{way}_bytes", f"carried_{way}_packets", f"carried_{way}_bytes")
    rows = (table["rank"] == rank) & (table[f"carried_{way}_bytes"] >= 0)
    if rows.sum() < 2:
        return []
    return [Span(rank, way, *(_growth(table[name][rows]) for name in names))]


def _growth(values: Array) -> int:
    return int(values[-1] - values[0])
