"""Agents with sensors, actuators and fallback heads, which act while the server is silent."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from sde_harl.executor.handlers.sensing import SensingHandler
from sde_harl.executor.handlers.split import SplitHandler
from sde_harl.executor.offline_control import OfflineController
from sde_harl.executor.sensors import Senses
from sde_harl.link.wire import Message
from sde_harl.policy.inference.fallback_head import FallbackPolicy
from sde_harl.policy.shapes import FallbackShape


class OfflineHandler(SensingHandler):
    """Does what the server decides, or in its silence what the fallback heads do."""

    def __init__(self, split: SplitHandler, senses: Senses, fallback_head: FallbackShape) -> None:
        super().__init__(split, senses)
        self._split = split
        self._controller = OfflineController(fallback_head)

    @property
    def decisions_alone(self) -> int:
        return self._controller.decisions

    def answer(self, message: Message) -> NDArray[Any] | None:
        actions = super().answer(message)
        self._controller.saw(message.header.step, self._split.latents)
        return actions

    def act(self, message: Message) -> None:
        self._split.act(message)
        actions = self._controller.answered(message.header.step, message.payload, self._fallback())
        if actions is not None:
            self._senses.act(actions.tobytes())

    def wait_s(self, most_s: float) -> float:
        return min(most_s, max(self._controller.left_s(), 0.0))

    def act_if_due(self) -> None:
        if self._controller.left_s() > 0.0:
            return
        if not self._controller.is_unanswered:
            readings = memoryview(self._senses.read())
            self._controller.saw(None, self._split.encode(readings, 1))
        self._senses.act(self._controller.act(self._fallback()).tobytes())

    def pause(self) -> None:
        self._controller.rest()

    def _fallback(self) -> FallbackPolicy:
        fallback = self._split.fallback
        assert fallback, "the server sends observations after the weights"
        return fallback
