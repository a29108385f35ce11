"""A recurrent layer in torch (Cho et al., EMNLP 2014), over sequences in which episodes may begin.

n agents, k sets of parameters (n, or 1 where they are shared), S sequences of L steps, B = S * L
rows in the order of (S, L), I inputs, H numbers of memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sde_harl.policy.layers import affine, orthogonal


class RecurrentState(NamedTuple):
    """The memory of a recurrent layer at the start of each sequence, and where it is cleared."""

    memory: Tensor
    """(n, S, H) before the first step of each sequence."""
    keep: Tensor
    """(1, S, L): 0.0 where an episode begins with the step, which clears the memory; else 1.0."""

    def select(self, sequences: slice | Tensor) -> RecurrentState:
        """Returns the state of some sequences, or of all in another order."""
        return RecurrentState(memory=self.memory[:, sequences], keep=self.keep[:, sequences])


class Gru(nn.Module):
    """A GRU with nn.GRU's equations, for k agents at once and over sequences that are cut.

    torch's own nn.GRU computes one set of parameters a call and can't clear the memory of some
    sequences in their middle.
    """

    def __init__(self, *, k: int, size_in: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.size = size
        # The three gates lie side by side in nn.GRU's order: reset, update, new. Each has an
        # orthogonal matrix of its own.
        self.weight_in = _gates(k, size_in, size, generator)  # (k, I, 3 H)
        self.weight_memory = _gates(k, size, size, generator)  # (k, H, 3 H)
        self.bias_in = nn.Parameter(torch.zeros(k, 1, 3 * size))
        self.bias_memory = nn.Parameter(torch.zeros(k, 1, 3 * size))

    def arrays(self) -> list[Tensor]:
        """Returns the parameters in the order of `acting.GruArrays`, which is their wire order."""
        return [self.weight_in, self.bias_in, self.weight_memory, self.bias_memory]

    def forward(self, x: Tensor, state: RecurrentState) -> Tensor:
        """Returns the memory (n, B, H) after each row of x (n, B, I)."""
        memory = state.memory
        steps = state.keep.shape[-1]
        # The inputs' share of the gates doesn't depend on the memory: one product for all steps.
        from_inputs = affine(x, self.weight_in, self.bias_in)
        by_step = from_inputs.unflatten(1, (-1, steps)).unbind(2)  # L of (n, S, 3 H)
        memories = []
        # Multiplying by 0.0 also stops the gradient at the beginning of an episode.
        for inputs, keep in zip(by_step, state.keep[..., None].unbind(2)):
            memory = self._step(inputs, memory * keep)
            memories.append(memory)
        return torch.stack(memories, 2).flatten(1, 2)  # (n, S * L, H)

    def _step(self, inputs: Tensor, memory: Tensor) -> Tensor:
        """Returns the memory (n, S, H) after a step with the gates' share of inputs (n, S, 3 H)."""
        reset, update, new = inputs.chunk(3, -1)
        past = affine(memory, self.weight_memory, self.bias_memory)
        past_reset, past_update, past_new = past.chunk(3, -1)
        new = torch.tanh(new + torch.sigmoid(reset + past_reset) * past_new)
        # lerp(a, b, w) = (1 - w) a + w b: an update gate of 1 keeps the memory.
        return torch.lerp(new, memory, torch.sigmoid(update + past_update))


def _gates(k: int, size_in: int, size: int, generator: torch.Generator) -> nn.Parameter:
    """Returns a parameter (k, in, 3 H) for the three gates."""
    gates: list[Tensor] = [
        orthogonal(k, size_in, size, gain=1.0, generator=generator) for _ in range(3)
    ]
    return nn.Parameter(torch.cat(gates, -1))
