"""HATD3: HADDPG with twin critics, target smoothing and delay (Zhong et al., JMLR 25(32), 2024)."""

from __future__ import annotations

from sde_harl.algorithms.off_policy.deterministic import Smoothed


class Hatd3(Smoothed):
    """Each group maximises the joint Q beside what those before it do now."""
