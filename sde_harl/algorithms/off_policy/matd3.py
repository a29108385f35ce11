"""MATD3: MADDPG with twin critics, target smoothing and delay.

Ackermann et al., arXiv 1910.01465.
"""

from __future__ import annotations

from sde_harl.algorithms.off_policy.deterministic import Smoothed


class Matd3(Smoothed):
    """Each group maximises the joint Q beside what the others did in the replay."""

    sequential = False
