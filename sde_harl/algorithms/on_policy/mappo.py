"""MAPPO: every group takes the team's advantage as it is (Yu et al., NeurIPS 2022).

With `algo.share_param` and no groups given, its default, all agents are one policy.
"""

from __future__ import annotations

from sde_harl.algorithms.on_policy.happo import Happo


class Mappo(Happo):
    """HAPPO's step without the ratios of the groups before."""

    sequential = False
