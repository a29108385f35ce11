"""IPPO: independent learners that share the reward (de Witt et al., arXiv 2011.09533, 2020)."""

from __future__ import annotations

from sde_harl.algorithms.on_policy.mappo import Mappo


class Ippo(Mappo):
    """MAPPO whose critic sees only an agent's own observation.

    With `algo.share_param` all agents have one critic, otherwise each its own.
    """

    decentralised_critic = True
