"""IPPO: independent learners that share the reward (de Witt et al., arXiv 2011.09533, 2020)."""

from __future__ import annotations

from sde_harl.algorithms.on_policy.mappo import Mappo


class Ippo(Mappo):
    """MAPPO whose critic sees only the agent's own observation; agents that share parameters share the critic."""

    decentralised_critic = True
