"""The centralised critic: the value of the environment's state (EP: one value for the whole team)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sde_harl.config import PolicyConfig


class Critic(nn.Module):
    """State (B, S) -> value (B,), in the units of the value normaliser."""

    def __init__(self, state_size: int, policy: PolicyConfig, generator: torch.Generator) -> None:
        super().__init__()
        widths = [state_size] + [policy.critic_width] * policy.critic_blocks
        layers: list[nn.Module] = [nn.LayerNorm(state_size)] if policy.feature_norm else []
        for size_in, size_out in zip(widths[:-1], widths[1:]):
            layers += [_linear(size_in, size_out, 2.0**0.5, generator), nn.ReLU()]
        layers.append(_linear(widths[-1], 1, 1.0, generator))
        self.net = nn.Sequential(*layers)

    def forward(self, state: Tensor) -> Tensor:
        return self.net(state).squeeze(-1)  # (B,)


def _linear(size_in: int, size_out: int, gain: float, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(size_in, size_out)
    nn.init.orthogonal_(layer.weight, gain, generator)
    nn.init.zeros_(layer.bias)
    return layer
