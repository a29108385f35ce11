"""IPPO: independent learners that share the reward (de Witt et al., arXiv 2011.09533, 2020)."""

from __future__ import annotations

from sde_harl.algorithms.on_policy.mappo import Mappo


class Ippo(Mappo):
    """MAPPO whose critic sees the agent's own observation; it is one for all agents where they share parameters."""

    own_view = True
