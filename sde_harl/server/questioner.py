"""Asks all executors about one slot: from the observations to the last answer or the deadline.

N agents, E environments of one slot, O observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.link.transport import Transport
from sde_harl.protocol.actions import DeviceActions
from sde_harl.protocol.requests import ActRequest
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.answer_waiter import AnswerWaiter
from sde_harl.server.sender import Sender
from sde_harl.server.settings import PoolSettings
from sde_harl.server.slot import Slot


class Questioner:
    """Asks executors and waits for their answers, which the receiver writes into the slot."""

    def __init__(
        self,
        transport: Transport,
        session: SessionSpec,
        *,
        settings: PoolSettings,
        executors: Mapping[int, tuple[int, ...]],
        sender: Sender,
        waiter: AnswerWaiter,
    ) -> None:
        """`executors` maps ranks to agents."""
        self._transport = transport
        self._on_device = session.on_device
        self._settings = settings
        self._executors = executors
        self._sender = sender
        self._waiter = waiter

    def ask(
        self, slot: Slot, obs: NDArray[Any], *, step: int, version: int, request: ActRequest | None
    ) -> None:
        """Begins a decision: sends observations (N, E, O) to every executor that can take them."""
        slot.begin(step, obs.shape[1])
        if request:
            slot.device_actions = self._room_for_actions(request)
        left_out = self._sender.sense(slot, obs, version=version, request=request)
        if left_out:
            self._leave_out(slot, left_out)

    def _leave_out(self, slot: Slot, left_out: list[int]) -> None:
        """Stops waiting for ranks that were not asked, and notes why."""
        slot.leave_out(left_out)
        # Those that are not absent had not taken the last frame yet: that counts as silence.
        busy = {
            rank: slot.questions(self._executors[rank])
            for rank in left_out
            if rank not in self._transport.absent
        }
        self._waiter.note_missed(busy, slot.asked_ns, "took no observations")

    def _room_for_actions(self, request: ActRequest) -> DeviceActions:
        """Returns arrays for the answers to a request, all 0."""
        assert self._on_device
        memory = 0
        if request.send_memory:
            memory = self._on_device.memory
        return DeviceActions.empty(
            request.available,
            self._settings.action_size,
            dtype=self._settings.action_dtype,
            memory=memory,
        )

    def await_answers(self, slot: Slot, missed: str, max_age: int) -> NDArray[np.int32] | None:
        """Waits for the answers until the deadline; returns the ages (N, E) of what there is.

        Returns None if all have come. `missed` says what an executor has not done that does not
        answer. Raises UserError where an executor is given up and the run may not go on without it.
        """
        # Without a question there is no answer to wait for, but an executor may come back.
        none_asked = self._executors.keys() <= {*slot.left_out}

        def is_done() -> bool:
            all_absent = none_asked and self._executors.keys() <= self._transport.absent
            return not (slot.missing or all_absent)

        if slot.missing or none_asked:
            self._waiter.wait(is_done, slot.asked_ns + int(self._settings.decision_timeout_s * 1e9))
        if not slot.missing and not slot.left_out:
            return None
        return self._substitute_missing(slot, missed, max_age)

    def _substitute_missing(self, slot: Slot, missed: str, max_age: int) -> NDArray[np.int32]:
        """Goes on without the missing answers; returns and raises as `await_answers`."""
        missing_by_rank = slot.missing_by_rank()
        missing = slot.missing
        # From here on their answers are late.
        slot.missing = set()
        questions = {rank: slot.questions(agents) for rank, agents in missing_by_rank.items()}
        self._waiter.note_missed(questions, slot.asked_ns, f"{missed} for step {slot.step}")
        return slot.substitute([*missing, *slot.left_out_agents], max_age)
