"""HAA2C: advantage actor-critic, one role group after the other.

Zhong et al., JMLR 25(32), 2024, sec. 5.
"""

from __future__ import annotations

from torch import Tensor

from sde_harl.algorithms.on_policy.first_order import FirstOrder


class Haa2c(FirstOrder):
    """Maximises r M, not clipped: the ratio corrects later epochs for the policy that acted."""

    def objective(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        return ratio * advantages
