"""The program, with two executors that attack it: mpirun -np 9 python hostile_program.py ...

Ranks 3 and 6 answer as they should often enough to be asked, and attack all the time: with noise,
damaged and misleading frames, numbers that no device has, messages of hundreds of MB, and floods.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from sde_harl.codec.plain import Float32
from sde_harl.executor.executor import Executor
from sde_harl.executor.handlers import on_device
from sde_harl.executor.handlers.split import SplitHandler
from sde_harl.link.mpi import launched_ranks
from sde_harl.link.wire import Header, Kind, Message, frame_of
from sde_harl.protocol.resources import Resources, pack_meter
from sde_harl.run import main

HOSTILE = (3, 6)
PACE_S = 0.02
"""Time between two attacks, where no message comes."""
FLOOD = 500
HUGE_MB = 300
# A BYE is a way to leave, no attack.
KINDS = [kind for kind in Kind if kind is not Kind.BYE]
EXTREMES = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e9, -200.0, 200.0, 65504.0, 0.5, 0.0]


def spread_of_eight(continuous: bool = False) -> Any:
    """Makes simple_spread with eight agents, one for each executor."""
    from mpe2 import simple_spread_v3

    return simple_spread_v3.parallel_env(N=8, max_cycles=25, continuous_actions=continuous)


def continuous_spread_of_eight() -> Any:
    return spread_of_eight(continuous=True)


class Attacker:
    """Attacks over an executor's own link."""

    def __init__(self, executor: Executor, rank: int) -> None:
        self.link: Any = executor._transport
        self.random = random.Random(rank)
        self.numbers = np.random.default_rng(rank)
        self.asked = Header(kind=Kind.SENSOR)
        """The last question, which lets an attack name what is awaited."""
        self.huge: list[Any] = []
        self.attacks: list[Callable[[], None]] = [
            self.send_noise,
            self.send_lies,
            self.send_lies,
            self.send_greeting,
            self.send_report,
            self.send_report,
            self.flood,
        ]

    def attack(self) -> None:
        """Does one of the attacks."""
        # More than a few of the largest would only measure how fast this machine copies.
        if len(self.huge) < 3 and self.random.random() < 0.01:
            self.send_huge()
        self.random.choice(self.attacks)()

    def send_noise(self) -> None:
        noise = self.random.randbytes(self.random.choice([0, 3, 31, 32, 200, 3000]))
        self.link._post(0, noise)

    def flood(self) -> None:
        if self.random.random() < 0.1:
            for _ in range(FLOOD):
                self.random.choice([self.send_noise, self.send_lies])()

    def send_lies(self) -> None:
        """Sends a frame that is right but for some fields and what it says; or damages it."""
        right = self.asked
        fields = {
            name: self.random.choice([value, value, self.random.randrange(4)])
            for name, value in right._asdict().items()
            if name not in ("kind", "run_id")
        }
        fields["agent"] = self.random.choice([self.link.rank - 1, self.random.randrange(9)])
        kind = self.random.choice([Kind.LATENTS, Kind.DEVICE_ACTIONS, *KINDS])
        payload = self.numbers.choice(EXTREMES, self.random.choice([4, 32, 64, 128, 400]))
        frame = bytearray(
            frame_of(
                Header(kind=kind, **fields).in_run(self.link.run_id or 0),
                payload.astype(np.float32).tobytes(),
            )
        )
        if self.random.random() < 0.2:
            frame[self.random.randrange(len(frame))] ^= 1 + self.random.randrange(255)
        self.link._post(0, bytes(frame))

    def send_greeting(self) -> None:
        fields = {"host": "\x1b[2J[/x]", "cores": 10**30}
        text = json.dumps(fields)[:-1] + ', "host": "twice"}'
        self.link.send(0, Header(kind=Kind.HELLO), text.encode())

    def send_report(self) -> None:
        values = [self.random.choice([0, 1, 2**50 + 1]) for _ in Resources._fields]
        values[0] = self.random.choice([np.nan, -1.0, 1e300])
        number = self.random.randrange(200)
        payload = pack_meter(Resources._make(values), np.zeros((3, 3), np.int64))
        self.link.send(0, Header(kind=Kind.METER, step=number), payload)

    def send_huge(self) -> None:
        """Sends a message of hundreds of MB, from a buffer of one."""
        megabyte = 1 << 20
        repeated = self.link._byte.Create_hvector(HUGE_MB, megabyte, 0).Commit()
        self.huge.append(self.link._comm.Isend([bytearray(megabyte), 1, repeated], 0))


ATTACKERS: dict[int, Attacker] = {}
"""This process's one, once it has an executor, by that one's identity."""
KNOWN: dict[str, Any] = {
    "handle": Executor.handle,
    "encode": SplitHandler.encode,
    "pack_actions": on_device.pack_actions,
}
"""What the attacks stand around."""


def attacker(executor: Executor) -> Attacker:
    rank = executor._transport.rank
    return ATTACKERS.setdefault(id(executor), Attacker(executor, rank))


def handle(self: Executor, message: Message) -> None:
    mine = attacker(self)
    if message.header.kind is Kind.SENSOR:
        mine.asked = message.header
        for _ in range(mine.random.randrange(3)):
            mine.attack()
        # Most questions are answered, or the server would soon ask no more.
        if mine.random.random() < 0.02:
            return
    KNOWN["handle"](self, message)


def wait_s(self: Executor, most_s: float) -> float:
    return min(most_s, PACE_S)


def act_if_due(self: Executor) -> None:
    if self.farewell is None:
        attacker(self).attack()


def encode(self: SplitHandler, observations: memoryview, rows: int) -> np.ndarray:
    """Gives latents at their bounds and beyond, in some answers."""
    latents: np.ndarray = KNOWN["encode"](self, observations, rows)
    if random.random() < 0.3:
        latents[:] = np.random.default_rng().choice([-65504.0, 65504.0, 3e38], latents.shape)
    return latents


def send_as_it_is(self: Float32, z: np.ndarray) -> bytes:
    """Codes latents without a look at them."""
    return z.astype("<f4").tobytes()


def pack_actions(actions: np.ndarray, log_probs: np.ndarray, memory: Any) -> bytes:
    """Tells log-probabilities at their bounds and beyond, in some answers."""
    if random.random() < 0.3:
        log_probs = np.full_like(log_probs, random.choice([-200.0, -32.0, 0.0, 32.0, np.nan]))
    return bytes(KNOWN["pack_actions"](actions, log_probs, memory))


def make_hostile() -> None:
    """Has the executors of this process attack."""
    Executor.handle = handle  # type: ignore[method-assign]
    Executor.wait_s = wait_s  # type: ignore[method-assign]
    Executor.act_if_due = act_if_due  # type: ignore[method-assign]
    SplitHandler.encode = encode  # type: ignore[method-assign]
    Float32.encode = send_as_it_is  # type: ignore[method-assign]
    on_device.pack_actions = pack_actions


if __name__ == "__main__":
    if launched_ranks()[0] in HOSTILE:
        make_hostile()
    sys.exit(main(sys.argv[1:]))
