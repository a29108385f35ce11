"""MADDPG: deterministic policy gradients, all groups at once (Lowe et al., NeurIPS 2017).

All agents share the team's reward here, so that one critic takes the place of one for each agent.
"""

from __future__ import annotations

from sde_harl.algorithms.off_policy.deterministic import Deterministic


class Maddpg(Deterministic):
    """Each group maximises the joint Q beside what the others did in the replay."""

    sequential = False
