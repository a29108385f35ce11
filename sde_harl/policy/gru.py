"""A recurrent layer in torch (Cho et al., EMNLP 2014), over sequences that may begin anew in their middle.

n agents, k sets of parameters (n, or 1 where they are shared), S sequences of L steps, B = S * L rows in the order of
(S, L), I inputs, H numbers of memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sde_harl.policy.layers import affine, orthogonal


class RecurrentState(NamedTuple):
    """What rows remember."""

    memory: Tensor
    """(n, S, H) before the first step of each sequence."""
    keep: Tensor
    """(1, S, L): 0.0 where an episode begins with the step, so that nothing before it is remembered."""

    def pick(self, sequences: slice | Tensor) -> RecurrentState:
        """Of some sequences, or of all in another order."""
        return RecurrentState(self.memory[:, sequences], self.keep[:, sequences])


class Gru(nn.Module):
    """nn.GRU's equations; the gates lie in its order: reset, update, new."""

    def __init__(self, k: int, size_in: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.size = size
        self.weight_in, self.weight_memory = (
            nn.Parameter(
                torch.cat([orthogonal(k, rows, size, 1.0, generator) for _ in range(3)], -1)
            )
            for rows in (size_in, size)
        )  # (k, I, 3 H), (k, H, 3 H)
        self.bias_in, self.bias_memory = (
            nn.Parameter(torch.zeros(k, 1, 3 * size)) for _ in range(2)
        )

    def arrays(self) -> tuple[Tensor, ...]:
        """As in `acting.GruArrays`."""
        return self.weight_in, self.bias_in, self.weight_memory, self.bias_memory

    def forward(self, x: Tensor, recall: RecurrentState) -> Tensor:
        """(n, B, I) -> (n, B, H), the memory after each row."""
        memory, steps = recall.memory, recall.keep.shape[-1]
        inputs = (
            affine(x, self.weight_in, self.bias_in).unflatten(1, (-1, steps)).unbind(2)
        )  # L of (n, S, 3 H)
        outputs = []
        for gates, keep in zip(inputs, recall.keep[..., None].unbind(2)):
            memory = memory * keep
            reset, update, new = gates.chunk(3, -1)
            past_reset, past_update, past_new = affine(
                memory, self.weight_memory, self.bias_memory
            ).chunk(3, -1)
            new = torch.tanh(new + torch.sigmoid(reset + past_reset) * past_new)
            memory = torch.lerp(new, memory, torch.sigmoid(update + past_update))
            outputs.append(memory)
        return torch.stack(outputs, 2).flatten(1, 2)
