"""HADDPG: deterministic policy gradients, one role group after the other.

Zhong et al., JMLR 25(32), 2024, alg. 5; of one agent, DDPG (Lillicrap et al., ICLR 2016).
"""

from __future__ import annotations

from sde_harl.algorithms.off_policy.deterministic import Deterministic


class Haddpg(Deterministic):
    """Each group maximises the joint Q beside what those before it do now."""
