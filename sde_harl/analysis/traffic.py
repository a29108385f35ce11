"""Compares the bytes that we claim to have sent with those that the kernel's interfaces counted.

The claim is the frames, 22 bytes a message and 66 a packet. Open MPI 5 puts 8 bytes (TCP transport)
and 14 (matching) before a message that it sends in one piece; a packet has Ethernet's 14 bytes,
IPv4's 20 and TCP's 32 with time stamps. The number of packets, TCP's bare acknowledgements among
them, is the interface's own count. Longer messages, such as weights, are sent in parts with more
headers, which the claim leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

from sde_harl.record.reader import Columns, Run
from sde_harl.record.schema import Array

MPI_BYTES = 22
PACKET_BYTES = 66
WAYS = ("sent", "received")


@dataclass(frozen=True, kw_only=True)
class Span:
    """Holds what one rank sent or received between its first and last row of /traffic.

    What was exchanged before the first row, at the start of the run, is not in it.
    """

    rank: int
    way: str  # sent, received
    messages: int
    frame_bytes: int
    packets: int
    counted_bytes: int  # by the interfaces: all that the host sent or received

    @property
    def claimed_bytes(self) -> int:
        return self.frame_bytes + MPI_BYTES * self.messages + PACKET_BYTES * self.packets

    @property
    def excess(self) -> float:
        """Returns by how much the count exceeds the claim, as a share of the claim."""
        if not self.claimed_bytes:
            return 0.0
        return self.counted_bytes / self.claimed_bytes - 1


def spans(run: Run) -> list[Span]:
    """Returns the spans of every rank, both ways.

    There are none where the interfaces are unknown (ranks share memory), or where the run has just
    begun.
    """
    table = run.table("traffic")
    ranks = sorted({int(rank) for rank in table.get("rank", ())})
    found = [_span(table, rank, way) for rank in ranks for way in WAYS]
    return [span for span in found if span is not None]


def _span(table: Columns, rank: int, way: str) -> Span | None:
    known = table[f"carried_{way}_bytes"] >= 0
    rows = (table["rank"] == rank) & known
    # Counters of an interface began long before the run: only their growth says something.
    if rows.sum() < 2:
        return None
    return Span(
        rank=rank,
        way=way,
        messages=_growth(table[way][rows]),
        frame_bytes=_growth(table[f"{way}_bytes"][rows]),
        packets=_growth(table[f"carried_{way}_packets"][rows]),
        counted_bytes=_growth(table[f"carried_{way}_bytes"][rows]),
    )


def _growth(counter: Array) -> int:
    return int(counter[-1] - counter[0])
