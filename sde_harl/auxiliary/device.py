"""The device that learns: the host's processor, or a GPU to which all it needs is copied.

This is the only place where tensors are copied between both. Many tensors travel as one block,
since each copy has to be waited for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ALIGNMENT = 16
"""Bytes: a tensor in a block begins at a multiple of it, whatever its type."""


class Device:
    """A device of torch's, whose copies are counted."""

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)
        self.is_host = name == "cpu"
        self.copies_up = 0
        """Blocks that were copied from the host to it."""
        self.copies_down = 0

    def put(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Returns the host's tensors on the device, copied as one block."""
        if self.is_host:
            return [*tensors]
        self.copies_up += 1
        block = self._up(torch.cat([_padded(each) for each in tensors]))
        return _unpacked(block, tensors)

    def get(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Returns the device's tensors on the host, copied as one block."""
        if self.is_host:
            return [*tensors]
        self.copies_down += 1
        block = self._down(torch.cat([_padded(each) for each in tensors]))
        return _unpacked(block, tensors)

    def take_over(self, nets: nn.Module, other: nn.Module) -> None:
        """Has the device's nets take over the numbers of equal ones on the host."""
        if not self.is_host:
            _replace(nets, self.put(_numbers(other)))

    def give_back(self, nets: nn.Module, other: nn.Module) -> None:
        """Has equal nets on the host take over the numbers of the device's."""
        if not self.is_host:
            _replace(other, self.get(_numbers(nets)))

    def _up(self, block: Tensor) -> Tensor:
        if self.device.type == "cuda":
            # From pinned memory the copy goes on while the host goes on.
            return block.pin_memory().to(self.device, non_blocking=True)
        return block.to(self.device, copy=True)

    def _down(self, block: Tensor) -> Tensor:
        return block.to("cpu", copy=True)


HOST = Device("cpu")


def _numbers(nets: nn.Module) -> list[Tensor]:
    return [each.detach() for each in nets.state_dict().values() if each.numel()]


@torch.no_grad()
def _replace(nets: nn.Module, numbers: Sequence[Tensor]) -> None:
    for old, new in zip(_numbers(nets), numbers):
        old.copy_(new)


def _padded(tensor: Tensor) -> Tensor:
    """Returns a tensor's bytes, and zeros up to the next place where another may begin."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return nn.functional.pad(flat, (0, -flat.numel() % ALIGNMENT))


def _unpacked(block: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Returns the tensors in a block, which are views of it."""
    tensors = []
    start = 0
    for each in like:
        size = each.numel() * each.element_size()
        part = block[start : start + size].view(each.dtype)
        tensors.append(part.reshape(each.shape))
        start += size + -size % ALIGNMENT
    return tensors
