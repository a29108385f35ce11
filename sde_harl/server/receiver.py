"""Takes in what executors send. Every field is checked first; wrong messages are counted.

N agents, n of one executor, E environments of one slot, Z latent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.codec.plain import UNKNOWN_BITS
from sde_harl.codec.registry import PLAIN, Codec
from sde_harl.link.transport import Transport
from sde_harl.link.wire import Kind, Message, WireError
from sde_harl.meters.timing import now_ns
from sde_harl.outside.text import printable
from sde_harl.protocol.actions import unpack_actions
from sde_harl.protocol.hello import Hello
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.action_check import ActionCheck
from sde_harl.server.membership import REPORT, Membership, Question
from sde_harl.server.reports import Reports, read_report
from sde_harl.server.slot import Slot

log = logging.getLogger(__name__)

# Looked up once: an Enum runs Python code to find a member.
LATENTS = Kind.LATENTS
DEVICE_ACTIONS = Kind.DEVICE_ACTIONS
METER = Kind.METER
HELLO = Kind.HELLO
BYE = Kind.BYE
LONGEST_REASON = 1024
"""Characters of a BYE's reason that are shown."""


class Receiver:
    """Takes what executors send into slots, reports and hosts."""

    def __init__(
        self,
        transport: Transport,
        session: SessionSpec,
        *,
        executors: Mapping[int, tuple[int, ...]],
        slots: list[Slot],
        membership: Membership,
        reports: Reports,
    ) -> None:
        """`executors` maps ranks to agents."""
        self._transport = transport
        self._executors = executors
        self._slots = slots
        self._membership = membership
        self._reports = reports
        self._actions: ActionCheck | None = None
        if session.on_device:
            shape = session.on_device
            self._actions = ActionCheck(shape.branches, shape.continuous)
        self.codecs = _plain_codecs(session)
        """Each agent's, of version `version`; entropy coders come with every published model."""
        self.version = 0
        """Version of the published model; answers made with another one are not used."""
        self.hosts: dict[int, Hello] = {}
        self.returned: list[int] = []
        """Ranks that were absent and have answered all they owed; the reader empties the list."""
        self.parted: dict[int, str] = {}
        """Ranks that have said they can't go on, and why; the reader empties it."""
        self.others: dict[Kind, Callable[[Message], None]] = {}
        """Who takes the kinds that are not known here. They may raise WireError."""
        self.elsewhere: Callable[[Message], None] = _refuse
        """Who takes the messages of ranks that hold no agents. It may raise WireError."""

    def receive(self, message: Message) -> None:
        """Acts on one message of an executor. Raises UserError if its package differs."""
        kind = message.header.kind
        # The kinds of every decision come first.
        try:
            if message.source not in self._executors:
                self.elsewhere(message)
            elif kind is LATENTS:
                self._on_latents(message)
            elif kind is DEVICE_ACTIONS:
                self._on_device_actions(message)
            elif kind is METER:
                self._on_report(message)
            elif kind is HELLO:
                self._on_hello(message)
            elif kind is BYE:
                self._on_bye(message)
            elif kind in self.others:
                self.others[kind](message)
            else:
                raise WireError("kind")
        except WireError as error:
            self._reject(message, error.reason)
        except ValueError as error:  # a payload that the codec can't decode
            self._reject(message, "decode")
            log.debug("rank %d: %s", message.source, error)

    def _reject(self, message: Message, reason: str) -> None:
        header = message.header
        self._transport.faults.count(message.source, reason, step=header.step, agent=header.agent)

    def _on_latents(self, message: Message) -> None:
        """Takes the answer of one agent whose policy is split."""
        slot, is_late = self._find_question(message)
        if slot.device_actions is not None:  # this run's executors send no latents
            raise WireError("kind")
        if is_late:
            self._refresh(slot, message)
            return
        started = now_ns()
        agent = message.header.agent
        bits = self.codecs[agent].decode(message.payload, slot.places[agent])
        slot.arrived(
            agent,
            payload_bytes=len(message.payload),
            ideal_bits=bits,
            decode_ns=now_ns() - started,
        )
        # Most executors owe nothing, so that most answers settle nothing.
        if message.source in self._membership.owing:
            self._settle(message)

    def _refresh(self, slot: Slot, message: Message) -> None:
        """Takes late latents as their agent's last ones, if usable and none are younger."""
        header = message.header
        # Another version decodes to wrong numbers, other rows are an evaluation's, and an older
        # decision's latents would replace younger ones.
        decision = None
        if (
            header.version == self.version
            and header.environments == slot.rows
            and header.step > slot.decision_of[header.agent]
        ):
            self.codecs[header.agent].decode(message.payload, slot.places[header.agent])
            decision = header.step
        slot.arrived_late(header.agent, payload_bytes=len(message.payload), decision=decision)
        self._settle(message)

    def _on_device_actions(self, message: Message) -> None:
        """Takes an executor's answer for all its agents: all of it, or nothing if any is wrong."""
        slot, is_late = self._find_question(message)
        agents = self._executors[message.source]
        payload = message.payload
        share, rest = divmod(len(payload), len(agents))
        if slot.device_actions is None:
            raise WireError("kind")
        if message.header.agent != agents[0]:
            raise WireError("agent")
        if rest:
            raise WireError("length")
        if is_late:
            # The environments have gone on without these actions, so they only count.
            for agent in agents:
                slot.arrived_late(agent, payload_bytes=share, decision=None)
            self._settle(message)
            return
        started = now_ns()
        self._take_actions(slot, np.array(agents), payload)
        taken_ns = now_ns() - started
        # One message for all: each agent's row has the time that checking all of it took.
        for agent in agents:
            slot.arrived(agent, payload_bytes=share, ideal_bits=UNKNOWN_BITS, decode_ns=taken_ns)
        if message.source in self._membership.owing:
            self._settle(message)

    def _take_actions(
        self, slot: Slot, agents: NDArray[np.integer[Any]], payload: memoryview
    ) -> None:
        """Writes what `agents` (n,) did into their place in the slot, once it is checked."""
        assert self._actions
        assert slot.device_actions
        done = slot.device_actions
        answer = unpack_actions(payload, len(agents), done)
        self._actions.check(answer, agents, done.available)
        done.actions[agents] = answer.actions
        done.log_probs[agents] = answer.log_probs
        if answer.memory.size:
            done.memory[agents] = answer.memory

    def _find_question(self, message: Message) -> tuple[Slot, bool]:
        """Returns the slot whose question was answered, and whether it has gone on without.

        Raises WireError for an answer to no question, and for one in time that was made with
        another version.
        """
        header = message.header
        source = message.source
        agent = header.agent
        if header.slot >= len(self._slots):
            raise WireError("agent")
        slot = self._slots[header.slot]
        # The usual case is looked at first: it needs no `Question`.
        if header.step == slot.number and agent in slot.missing:
            if agent not in self._executors[source]:
                raise WireError("agent")
            # Another version has other medians: its latents would be decoded to wrong numbers.
            if header.version != self.version:
                raise WireError("version")
            if header.environments != slot.rows:
                raise WireError("step")
            return slot, False
        question = Question(slot=header.slot, number=header.step, agent=agent)
        if self._membership.is_owed(source, question):
            return slot, True
        if agent not in self._executors[source]:
            raise WireError("agent")
        raise WireError("step")

    def _settle(self, message: Message) -> None:
        """Notes that an executor which owed answers has given a right one."""
        header = message.header
        question = Question(slot=header.slot, number=header.step, agent=header.agent)
        self._heard(message.source, question)

    def _heard(self, rank: int, question: Question) -> None:
        if self._membership.heard(rank, question):
            self.returned.append(rank)

    def _on_report(self, message: Message) -> None:
        rank = message.source
        question = Question(slot=REPORT, number=message.header.step, agent=0)
        is_late = self._membership.is_owed(rank, question)
        is_awaited = question.number == self._reports.number and rank not in self._reports.received
        if not (is_late or is_awaited):
            raise WireError("step")
        # A late report is checked, too: only a right one shows that the executor is back.
        report = read_report(message.payload, len(self._executors[rank]))
        if not is_late:
            self._reports.received[rank] = report
        self._heard(rank, question)

    def _on_hello(self, message: Message) -> None:
        rank = message.source
        hello = Hello.from_json(message.payload)
        # A second one would change what has been recorded of the host.
        if rank in self.hosts:
            raise WireError("hello")
        hello.check_version(rank)
        self.hosts[rank] = hello

    def _on_bye(self, message: Message) -> None:
        self.parted[message.source] = read_reason(message.payload)


def _refuse(message: Message) -> None:
    """Refuses the message of an executor whose agents were dealt to others."""
    raise WireError("agent")


def _plain_codecs(session: SessionSpec) -> list[Codec]:
    """Returns each agent's codec, if it needs no tables; else none, because tables come later."""
    plain = PLAIN.get(session.codec)
    if not plain:
        return []
    return [plain(size) for size in session.shape.latent_sizes()]


def read_reason(payload: memoryview) -> str:
    """Returns the reason in a BYE, fit to be printed on a terminal."""
    # Cut first, so that a long one costs no more than a short one; escapes may lengthen it again.
    text = bytes(payload[:LONGEST_REASON]).decode("utf-8", "replace")
    return printable(text)[:LONGEST_REASON]
