"""How several learners take one step together: each has a share of the rows, and sums are over all.

Every learner has the whole rollout and draws the same numbers. It computes its own rows of each
minibatch; sums of gradients are then the same on all of them, and so are the steps.

B rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sde_harl.outside.process import interruption


class Part(NamedTuple):
    """The place of a learner's rows among those of all learners."""

    rows: slice
    whole: int
    """Rows of all learners."""


class Peers:
    """The learners of a run; this class is that of a run with one."""

    rank = 0
    """Number of this learner among them."""
    size = 1

    @property
    def are_interrupted(self) -> bool:
        """Returns whether a loop is to end early, because this process is asked to end."""
        return interruption.requested

    def check(self) -> None:
        """Raises KeyboardInterrupt where this process is asked to end."""
        interruption.check()

    def own(self, whole: slice) -> slice:
        """Returns this learner's share of a range: even shares, in order."""
        return whole

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replaces float32 tensors by their sums over all learners, in one message.

        Raises KeyboardInterrupt, on all learners, where the first one is asked to end.
        """

    def sum_step(self, net: nn.Module, scalars: Iterable[Tensor]) -> None:
        """Sums the gradients that a backward pass has left in a net, and scalars, as `sum`."""

    def join(self, values: Tensor, part: Part | None) -> Tensor:
        """Returns (B,), the values (B',) of all learners; `part` is the place of this one's."""
        return values


ALONE = Peers()


class Adder(Protocol):
    """Adds arrays over all learners' processes."""

    rank: int
    size: int

    def sum(self, array: NDArray[np.float32]) -> None:
        """Replaces an array by its sum over all learners."""


class Team(Peers):
    """Two learners or more."""

    def __init__(self, *, rank: int, size: int) -> None:
        """`connect` has to be called before anything is summed."""
        self.rank = rank
        self.size = size
        self._adder: Adder | None = None
        # By their length: the memory of the messages, made once.
        self._messages: dict[int, NDArray[np.float32]] = {}

    def connect(self, adder: Adder) -> None:
        """Sums by `adder` from now on."""
        self._adder = adder

    # A learner that left by itself would let the others wait for ever: `sum` ends all of them.
    @property
    def are_interrupted(self) -> bool:
        return False

    def check(self) -> None:
        """Does nothing: `sum` checks, for all learners at once."""

    def own(self, whole: slice) -> slice:
        count = whole.stop - whole.start
        edges = [whole.start + count * k // self.size for k in (self.rank, self.rank + 1)]
        return slice(*edges)

    def sum(self, tensors: Iterable[Tensor]) -> None:
        assert self._adder
        parts = [each.detach() for each in tensors]
        length = sum(each.numel() for each in parts)
        if length not in self._messages:
            self._messages[length] = np.empty(length + 1, np.float32)
        message = self._messages[length]
        flat = torch.from_numpy(message)[:-1]
        views = flat.split([each.numel() for each in parts])
        for view, each in zip(views, parts):
            view.copy_(each.reshape(-1))
        # Only the first learner takes signals.
        message[-1] = interruption.requested
        self._adder.sum(message)
        if message[-1]:
            interruption.check()
            raise KeyboardInterrupt
        for view, each in zip(views, parts):
            each.copy_(view.view_as(each))

    def sum_step(self, net: nn.Module, scalars: Iterable[Tensor]) -> None:
        gradients = [each.grad for each in net.parameters() if each.grad is not None]
        self.sum([*gradients, *scalars])

    def join(self, values: Tensor, part: Part | None) -> Tensor:
        assert part
        joined = values.new_zeros(part.whole)
        joined[part.rows] = values
        self.sum([joined])
        return joined
