"""HAPPO: proximal policy optimisation, one role group after the other.

Zhong et al., JMLR 25(32), 2024, alg. 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sde_harl.algorithms.on_policy.first_order import FirstOrder


class Happo(FirstOrder):
    """Maximises min(r M, clip(r, 1 - c, 1 + c) M)."""

    def objective(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        clip = self._algo.clip_coef
        return torch.minimum(ratio * advantages, ratio.clamp(1.0 - clip, 1.0 + clip) * advantages)
