"""Damages files as disks, networks and strangers do."""

from __future__ import annotations

import random


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Returns a copy with one to four changes at random places."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        chance.choice(CHANGES)(changed, chance)
    return bytes(changed)


def _place(data: bytearray, chance: random.Random) -> int:
    """Returns a random place, mostly where there is anything but zeros."""
    at = 0
    for _ in range(20):
        at = chance.randrange(max(1, len(data)))
        if data[at : at + 1] != b"\0":
            break
    return at


def _flip_a_bit(data: bytearray, chance: random.Random) -> None:
    if data:
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _set_a_byte(data: bytearray, chance: random.Random) -> None:
    if data:
        data[_place(data, chance)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))


def _set_a_number(data: bytearray, chance: random.Random) -> None:
    size = chance.choice((2, 4, 8))
    at = _place(data, chance)
    number = chance.choice((0, 1, 1 << (8 * size - 1), (1 << 8 * size) - 1))
    data[at : at + size] = number.to_bytes(size, "little")


def _zero_a_block(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    length = len(data[at : at + chance.randint(1, 512)])
    data[at : at + length] = bytes(length)


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _insert(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    data[at:at] = chance.randbytes(chance.randint(1, 64))


def _delete(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.randint(1, 64)]


def _copy_a_block(data: bytearray, chance: random.Random) -> None:
    length = chance.randint(1, 256)
    here = _place(data, chance)
    there = _place(data, chance)
    block = data[here : here + length]
    data[there : there + len(block)] = block


# A change in place reaches deeper than one that moves all that follows it.
CHANGES = (
    *(_flip_a_bit, _set_a_byte, _set_a_number, _zero_a_block, _copy_a_block) * 3,
    _cut,
    _insert,
    _delete,
)
