"""Rank r's side of the wire: receive an observation, compute the local nets, code the latents, send them, act.

numpy only, unless torch is asked for. An executor is stateless but for what the server published: one that starts again
has lost nothing. Only whole policies that are recurrent remember what they saw, and begin anew then.
`Executor.handle` is the whole behaviour; `serve` drives it from a transport, a loopback drives it from the server.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from functools import partial

import numpy as np

from sde_harl import __version__
from sde_harl.codec.registry import PLAIN, make_codec
from sde_harl.codec.tables import from_bytes
from sde_harl.draws.counters import Draw, Purpose
from sde_harl.errors import UserError
from sde_harl.executor.offline_control import OfflineController
from sde_harl.executor.sensors import NO_SENSOR, Actions, Senses
from sde_harl.link.transport import Transport
from sde_harl.link.wire import Kind, Message, Resources, WireError, pack_meter, unpack_tables
from sde_harl.meters.energy import NOTHING, Energy
from sde_harl.meters.network import Network
from sde_harl.meters.process import Process
from sde_harl.meters.timing import now_ns
from sde_harl.policy.inference.fallback_head import FallbackPolicy
from sde_harl.policy.inference.local_nets import LocalNets, MakeNets
from sde_harl.policy.inference.on_device import OnDevicePolicy, read_request, request_bytes
from sde_harl.protocol.session import SessionSpec

SERVER = 0
FLOAT32 = np.dtype("<f4")
# at hand: an Enum looks them up in Python
SENSOR, LATENTS, ACTIONS, DEVICE_ACTIONS = (
    Kind.SENSOR,
    Kind.LATENTS,
    Kind.ACTIONS,
    Kind.DEVICE_ACTIONS,
)
LARGEST_SENT = 1 << 28
"""What an executor sends has bounds of its own; the server counts what is too long and drops it."""
KILLED_S = 2.0
"""That the server has to kill this process: one that leaves MPI meanwhile makes Open MPI's prterun crash at times."""


def hello(energy: Energy) -> dict[str, str | int]:
    """Who this executor is, and how its energy is measured: what the server checks and records of it."""
    return {
        "host": socket.gethostname(),
        "arch": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "package": __version__,
        "cores": os.cpu_count() or 1,
        "pid": os.getpid(),
        "energy": energy.host_scope,
        "gpu_energy": energy.gpu_scope,
    }


def nets_on(device: str) -> MakeNets:
    """What makes local nets on a device of torch's. Raises UserError where this host has no torch."""
    if device not in ("cpu", "cuda"):
        raise WireError("welcome")
    try:
        from sde_harl.policy.local_torch import TorchLocalNets
    except ImportError as error:
        raise UserError(f"executor.backend: torch can't be imported here: {error}") from error
    return partial(TorchLocalNets, device=device)


class Executor:
    """The agents of one rank."""

    def __init__(self, transport: Transport, sensor: str = NO_SENSOR) -> None:
        """`sensor`: what senses where no environment at the server does, as whoever started this process named it."""
        self._transport, self._sensor = transport, sensor
        self._senses: Senses | None = None
        self._alone: OfflineController | None = None
        self._fallback: FallbackPolicy | None = None
        self._parted = False
        self._process, self._network, self._energy = Process(), Network(), Energy()
        self._idle_watts = NOTHING
        self._timings = Timings()
        self.farewell: str | None = None
        """Why the server ended the run ("" when all was well), once it has."""
        self.is_killed = False
        """Whether the server ends this process too, for it can't reach all others."""
        self.actions: dict[int, bytes] = {}
        """Slot -> the last actions (n, E, D) this executor was told to take, as they came."""
        transport.send(SERVER, Kind.HELLO, json.dumps(hello(self._energy)).encode())

    def handle(self, message: Message) -> None:
        """Do what one frame of the server says; an ill-formed one raises ValueError.

        Where this host can't do it, the server is told why, and of what it says after that, goodbye alone is heard.
        """
        if self._parted and message.header.kind is not Kind.BYE:
            return
        try:
            self._do(message)
        except UserError as error:
            self._part(error)

    def failure_timeout_s(self, most_s: float) -> float:
        """What the server's next word is to be waited for before `go_on`, at most `most_s`."""
        return (
            min(most_s, max(self._alone.left_s(), 0.0))
            if self._alone and not self._parted
            else most_s
        )

    def go_on(self) -> None:
        """Act without the server where it has been silent for too long, if the agents have exit heads and actuators."""
        if self._alone and self._alone.left_s() <= 0.0 and not self._parted:
            try:
                self._act_alone(self._alone)
            except UserError as error:
                self._part(error)

    def _part(self, error: UserError) -> None:
        self._parted = True
        self._transport.send(SERVER, Kind.BYE, " ".join(str(error).split()).encode())

    def _do(self, message: Message) -> None:
        kind = message.header.kind
        if self._alone and kind not in (SENSOR, ACTIONS):
            self._alone.rest()
        if kind is SENSOR:
            self._sensed(message)
        elif kind is ACTIONS:
            self._act(message)
        elif kind is Kind.WEIGHTS:
            self._load(np.frombuffer(message.payload, FLOAT32).copy())
        elif kind is Kind.TABLES:
            self._set_tables(message)
        elif kind is Kind.METER:
            self._report(message.header.step)
        elif kind is Kind.WELCOME:
            self._begin(SessionSpec.from_json(message.payload))
        elif kind is Kind.BYE:
            self.farewell = bytes(message.payload).decode("utf-8", "replace")
            self.is_killed = message.header.step > 0
            self.close()
        else:
            raise WireError("kind")

    def _begin(self, welcome: SessionSpec) -> None:
        self._agents, self._shape, self._pack = welcome.agents, welcome.shape, welcome.pack
        self._transport.run_id = welcome.run_id
        self._transport.set_frame_bytes(receive=welcome.frame_bytes, send=LARGEST_SENT)
        self._sizes = self._shape.latent_sizes()
        self._features, self._padded = (
            sum(self._shape.obs_sizes),
            min(self._shape.obs_sizes) < self._shape.obs,
        )
        self._obs_dtype = self._shape.obs_dtype()
        self._as_sent = not (self._padded or self._shape.pixels)
        self._whole, self._asked = welcome.whole, self._decide if welcome.whole else self._encode
        self._sensed = self._look if welcome.actions else self._asked
        self._memory: dict[tuple[int, bool], np.ndarray] = {}
        self._own_agents = np.array(welcome.agents, np.int32)
        plain = PLAIN.get(welcome.codec)  # entropy coders come with their tables
        self._codecs = {row: plain(size) for row, size in enumerate(self._sizes)} if plain else {}
        self._new_nets = nets_on(welcome.torch_device) if welcome.torch_device else LocalNets
        self._idle_watts = self._energy.idle_watts(welcome.idle_s)
        self._senses = self._make_senses(welcome.actions)
        self._fallback_head = welcome.fallback_head
        self._alone = (
            OfflineController(welcome.fallback_head)
            if welcome.fallback_head and self._senses
            else None
        )

    def _make_senses(self, actions: Actions | None) -> Senses | None:
        """Raises UserError where this process was started for another kind of run."""
        if (actions is None) != (self._sensor == NO_SENSOR):
            wanted = (
                "none, for the server plays an environment"
                if actions is None
                else "one (env.name = devices)"
            )
            raise UserError(
                f"executor.sensor: expected {wanted}, got {self._sensor} (this executor's command line)"
            )
        return Senses(self._sensor, self._agents, self._shape, actions) if actions else None

    def close(self) -> None:
        """Let go of the sensors, if it has any."""
        if self._senses:
            self._senses.close()

    def _set_tables(self, message: Message) -> None:
        agents, coded = unpack_tables(message.payload)
        tables = from_bytes(coded)
        for row in map(self._agents.index, agents):
            self._codecs[row] = make_codec(
                "entropy", self._sizes[row], tables=tables, pack=self._pack
            )

    def _load(self, flat: np.ndarray) -> None:
        if self._whole:
            self._policy = OnDevicePolicy(
                shape=self._shape, on_device=self._whole, weights=flat, nets=self._new_nets
            )
        elif self._fallback_head:
            self._fallback = exits = FallbackPolicy(
                shape=self._shape,
                fallback=self._fallback_head,
                weights=flat,
                nets=self._new_nets,
            )
            self._nets = exits.local
        else:
            self._nets = self._new_nets(self._shape, flat)

    def _look(self, message: Message) -> None:
        """The agents' own readings, as if the server had sent them."""
        if message.header.environments != 1 or not self._senses:
            raise WireError("step")
        seen = self._senses.read()
        self._asked(message._replace(payload=memoryview(seen + bytes(message.payload))))
        if self._alone:
            self._alone.saw(message.header.step, self._latents)

    def _act_alone(self, alone: OfflineController) -> None:
        assert self._senses and self._fallback
        if not alone.unanswered:
            alone.saw(None, self._nets(self._observations(memoryview(self._senses.read()), 1)))
        self._senses.act(alone.act(self._fallback).tobytes())

    def _decide(self, message: Message) -> None:
        """Observations in, what all agents do out, as one CHOICES message that names the first of them."""
        started, whole = now_ns(), self._whole
        assert whole
        _, _, _, step, slot, rows, version = message.header
        count, seen = len(self._agents), self._obs_dtype.itemsize * rows * self._features
        if len(message.payload) != seen + request_bytes(whole, count, rows):
            raise WireError("length")
        obs = self._observations(message.payload[:seen], rows)
        told = read_request(message.payload[seen:], whole, count, rows)
        memory = self._remembered((slot, told.greedy), told.begins, whole.memory)
        draw = None
        if not told.greedy:
            # slots hold equally many environments, numbered through
            first = slot * rows
            draw = Draw(whole.seed, Purpose.ACTING, told.step, first, self._own_agents)
        decision = self._policy.act(obs, told.available, draw, memory)
        if decision.memory is not None:
            self._memory[slot, told.greedy] = decision.memory
        self._timings.decided(count, now_ns() - started)
        payload = decision.actions.tobytes() + decision.log_probs.tobytes()
        if told.recall:
            payload += memory.tobytes()
        self._transport.send(
            SERVER, DEVICE_ACTIONS, payload, self._agents[0], step, slot, rows, version
        )
        if self._senses:
            self._senses.act(decision.actions.tobytes())

    def _remembered(self, where: tuple[int, bool], begins: np.ndarray, size: int) -> np.ndarray:
        """(n, E, H) of a slot, greedy or not: zero where an episode `begins` (E,), and before anything was seen.

        Greedy play is an evaluation, during which the games that are learnt from stand still.
        """
        memory = self._memory.get(where)
        if memory is None or memory.shape[1] != len(begins):
            return np.zeros((len(self._agents), len(begins), size), np.float32)
        memory[:, begins] = 0.0
        return memory

    def _encode(self, message: Message) -> None:
        """Observations in, one FEATURES message an agent out."""
        started = now_ns()
        _, _, _, step, slot, rows, version = message.header
        latents = self._latents = self._nets(self._observations(message.payload, rows))
        send, before = self._transport.send, now_ns()
        local = before - started
        for row, agent in enumerate(self._agents):
            payload = self._codecs[row].encode(latents[row, :, : self._sizes[row]])
            coded = now_ns()
            send(SERVER, LATENTS, payload, agent, step, slot, rows, version)
            self._timings.sent(slot, local, coded - before, coded)
            before = coded

    def _observations(self, payload: memoryview, rows: int) -> np.ndarray:
        """(n, E, O) padded with zeros, from each agent's (E, O_i) in turn."""
        count, size = len(self._agents), self._shape.obs
        if len(payload) != self._obs_dtype.itemsize * rows * self._features:
            raise WireError("length")
        if self._as_sent:
            return np.ndarray((count, rows, size), FLOAT32, payload)
        values = np.frombuffer(payload, self._obs_dtype).astype(FLOAT32, copy=False)
        if not self._padded:
            return values.reshape(count, rows, size)
        obs = np.zeros((count, rows, size), np.float32)
        start = 0
        for row, size in enumerate(self._shape.obs_sizes):
            obs[row, :, :size] = values[start : start + rows * size].reshape(rows, size)
            start += rows * size
        return obs

    def _act(self, message: Message) -> None:
        slot = message.header.slot
        self._timings.answered(slot, now_ns())
        self.actions[slot] = bytes(message.payload)
        if self._alone and self._senses and self._fallback:
            actions = self._alone.answered(message.header.step, message.payload, self._fallback)
            if actions is not None:
                self._senses.act(actions.tobytes())
        elif self._senses:
            self._senses.act(message.payload)

    def _report(self, number: int) -> None:
        sample, link = self._process.sample(), self._transport
        waiter = link.waiter
        alone = self._alone.decisions if self._alone else 0
        used = (*sample, waiter.slept_s, waiter.sleeps, link.faults.total, alone)
        carried = (*link.traffic(), *self._network.sample())
        resources = Resources(*used, *carried, *self._energy.joules(), *self._idle_watts)
        self._transport.send(
            SERVER, Kind.METER, pack_meter(resources, self._timings.take()), step=number
        )


class Timings:
    """Nanoseconds of each agent's answers since the last report: local net, encode, round trip (0: no answer yet)."""

    def __init__(self) -> None:
        self._rows: list[list[int]] = []
        self._waiting: dict[int, list[tuple[list[int], int]]] = {}

    def sent(self, slot: int, local_ns: int, encode_ns: int, at_ns: int) -> None:
        row = [local_ns, encode_ns, 0]
        self._rows.append(row)
        self._waiting.setdefault(slot, []).append((row, at_ns))

    def decided(self, agents: int, local_ns: int) -> None:
        """Of whole policies, all at once: nothing was coded, and nobody answers."""
        self._rows += [[local_ns, 0, 0]] * agents

    def answered(self, slot: int, at_ns: int) -> None:
        for row, sent_ns in self._waiting.pop(slot, ()):
            row[2] = at_ns - sent_ns

    def take(self) -> np.ndarray:
        """(k, 3) int64, and start anew."""
        rows = np.array(self._rows, np.int64).reshape(-1, 3)
        self._rows.clear()
        self._waiting.clear()
        return rows


def serve(transport: Transport, sensor: str = NO_SENSOR, idle_s: float = 3600.0) -> None:
    """Run an executor until the server says goodbye.

    `sensor` as of `Executor`. Raises UserError where the server gave a reason, has ended, or has been silent for
    `idle_s`: nobody would end us then.
    """
    executor, heard_ns = Executor(transport, sensor), now_ns()
    while executor.farewell is None:
        for message in transport.wait(executor.failure_timeout_s(idle_s)):
            heard_ns = now_ns()
            executor.handle(message)
            if executor.farewell is not None:
                break
        executor.go_on()
        if now_ns() - heard_ns >= idle_s * 1e9:
            executor.close()
            raise UserError(f"the server has been silent for {idle_s:.0f} s")
    transport.flush(1.0)
    if executor.is_killed:
        time.sleep(KILLED_S)
    if executor.farewell:
        raise UserError(executor.farewell)
