"""A pool of two executors whose frames the test makes itself: one is honest, the other is not."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from pools import session_of, settings_of

from sde_harl.link.transport import Collecting, Fan
from sde_harl.link.waiting import Waiter
from sde_harl.link.wire import Header, Kind, frame_of
from sde_harl.meters.energy import Energy
from sde_harl.policy.shapes import (
    LocalShape,
    OnDeviceShape,
    local_parameter_shapes,
    on_device_parameter_shapes,
)
from sde_harl.protocol.hello import describe_host
from sde_harl.protocol.requests import ActRequest
from sde_harl.protocol.resources import Resources, pack_meter
from sde_harl.server.executor_pool import ExecutorPool

ROWS = 3
LATENT = 4
MEMORY = 4
CHOICES = (3, 2)
AGENT_OF = {1: 0, 2: 1}
"""The agent of each rank."""
OBS = np.zeros((2, ROWS, 5), np.float32)
RESOURCES = Resources(
    cpu_s=1.0,
    rss_bytes=1,
    peak_rss_bytes=1,
    sleep_s=0.0,
    waits=0,
    rejected=0,
    alone=0,
    sent=1,
    received=1,
    sent_bytes=1,
    received_bytes=1,
    carried_sent_bytes=-1,
    carried_received_bytes=-1,
    carried_sent_packets=-1,
    carried_received_packets=-1,
)


class Inbox(Collecting):
    """Rank 0's end: what ranks 1 and 2 send is put in by the test, what they are sent is lost."""

    def __init__(self) -> None:
        super().__init__(0, 3, Waiter())
        self.frames: list[tuple[int, memoryview]] = []

    def put(self, source: int, frame: bytes) -> None:
        """Lets a frame of rank `source` arrive."""
        self.frames.append((source, memoryview(frame)))

    def put_message(self, source: int, header: Header, payload: bytes) -> None:
        """Lets a message of rank `source` arrive, of this run and with the right CRC."""
        self.put(source, frame_of(header.in_run(self.run_id or 0), payload))

    def _arrived(self) -> list[tuple[int, memoryview]]:
        frames = self.frames
        self.frames = []
        return frames

    def _post(self, dest: int, frame: bytes) -> None:
        """Drops it."""

    def _await_fan(self, fan: Fan, failure_timeout_s: float) -> list[int]:
        return [dest for dest in fan.frames if dest in self.absent]

    def _post_frame(self, fan: Fan, dest: int) -> None:
        """Drops it."""

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self, code: int = 0) -> None:
        """Does nothing."""

    def abort(self, code: int) -> NoReturn:
        raise SystemExit(code)


class Stage:
    """A pool that has met both executors and published a model."""

    def __init__(
        self,
        codec: str = "float32",
        continuous: bool | None = None,
        *,
        survives_losses: bool = True,
        farewell: bytes = b"",
    ) -> None:
        """Meets both executors; rank 2 says `farewell` instead of hello, if it is given.

        `continuous`: policies run on the devices, and whether they act so; None: split.
        """
        self.inbox = Inbox()
        self.codec = codec
        self.continuous = continuous
        shape = LocalShape((5, 5), 5, 8, LATENT, 1, True)
        fields: dict[str, Any] = {"codec": codec}
        shapes = local_parameter_shapes(shape)
        branches = CHOICES
        if continuous:
            branches = (1, 1)
        if continuous is not None:
            shape = shape._replace(latent=8)
            on_device = OnDeviceShape(branches, continuous, 1, MEMORY)
            fields = {"codec": "none", "on_device": on_device}
            shapes = [
                *local_parameter_shapes(shape),
                *on_device_parameter_shapes(shape, on_device),
            ]
        self.pool = ExecutorPool(
            self.inbox,
            session_of(shape, **fields),
            settings_of(
                rows=ROWS,
                action_size=2,
                continuous=bool(continuous),
                deadline_s=1e-3,
                survives_losses=survives_losses,
            ),
        )
        for rank in AGENT_OF:
            greeting = Header(kind=Kind.HELLO)
            payload = describe_host(Energy()).to_json()
            if farewell and rank == 2:
                greeting = Header(kind=Kind.BYE)
                payload = farewell
            self.inbox.put_message(rank, greeting, payload)
        self.pool.handshake()
        self.zeros = [np.zeros(each[1:], np.float32) for each in shapes]
        """The weights of an agent's published nets."""
        self.pool.publish(1, [self.zeros, self.zeros], [])
        self.available = np.ones((2, ROWS, sum(branches)), bool)

    def header(self, rank: int) -> Header:
        """Returns the header of a rank's right answer to the first decision."""
        kind = Kind.LATENTS
        if self.continuous is not None:
            kind = Kind.DEVICE_ACTIONS
        return Header(kind=kind, agent=AGENT_OF[rank], step=0, slot=0, environments=ROWS, version=1)

    def sizes(self) -> tuple[int, ...]:
        """Returns the bytes of the parts of a right answer."""
        numbers = 4 * ROWS * 2
        if self.continuous is not None:
            return (numbers, numbers, 4 * ROWS * MEMORY)
        each = {"float32": 4 * LATENT, "float16": 2 * LATENT, "int8": 4 + LATENT}
        return (ROWS * each[self.codec],)

    def right_answer(self) -> bytes:
        """Returns the payload of a right answer, all ones where they can be."""
        if self.continuous is None:
            return right_latents(self.codec)
        dtype = np.int32
        if self.continuous:
            dtype = np.float32
        return (
            np.ones((ROWS, 2), dtype).tobytes()
            + np.full((ROWS, 2), -1.0, np.float32).tobytes()
            + np.full((ROWS, MEMORY), 0.5, np.float32).tobytes()
        )

    def decide(self) -> dict[str, np.ndarray]:
        """Takes a decision with what has arrived; returns its arrays, agents first."""
        if self.continuous is None:
            self.pool.sense(0, 7, OBS)
            latents = self.pool.latents(0)
            made = {"latents": latents.values.copy()}
            self.pool.act(0, np.zeros((2, ROWS, 2), np.int32), policy_ns=0)
            return made
        request = ActRequest(
            available=self.available,
            begins=np.ones(ROWS, bool),
            greedy=False,
            send_memory=True,
        )
        done = self.pool.decide(0, 7, OBS, request=request)
        return {
            "actions": done.actions,
            "log_probs": done.log_probs,
            "memory": done.memory,
        }

    def report(self, rank: int) -> dict[int, Resources]:
        """Asks for reports, of which that of `rank` is right; returns what was taken."""
        header = Header(kind=Kind.METER, step=self.pool._parts.collector._reports.number + 1)
        self.inbox.put_message(rank, header, pack_meter(RESOURCES, np.zeros((1, 3), np.int64)))
        return self.pool.report().resources


def right_latents(codec: str) -> bytes:
    """Returns a payload of ones of a plain codec."""
    if codec == "int8":
        scale = np.full(ROWS, 1 / 127, np.float32)
        return scale.tobytes() + np.full((ROWS, LATENT), 127, np.int8).tobytes()
    dtype = {"float32": np.float32, "float16": np.float16}[codec]
    return np.ones((ROWS, LATENT), dtype).tobytes()
