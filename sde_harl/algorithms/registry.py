"""Algorithms by name.

Each is one module, one YAML in sde_harl/config/presets/algorithms and one entry here. Off-policy
algorithms say so by their class (`Algorithm.replays`).
"""

from __future__ import annotations

from sde_harl.algorithms.algorithm import Algorithm
from sde_harl.algorithms.off_policy.base import OffPolicy
from sde_harl.algorithms.off_policy.had3qn import Had3qn
from sde_harl.algorithms.off_policy.haddpg import Haddpg
from sde_harl.algorithms.off_policy.hasac import Hasac
from sde_harl.algorithms.off_policy.hatd3 import Hatd3
from sde_harl.algorithms.off_policy.maddpg import Maddpg
from sde_harl.algorithms.off_policy.matd3 import Matd3
from sde_harl.algorithms.on_policy.base import OnPolicy
from sde_harl.algorithms.on_policy.haa2c import Haa2c
from sde_harl.algorithms.on_policy.happo import Happo
from sde_harl.algorithms.on_policy.hatrpo import Hatrpo
from sde_harl.algorithms.on_policy.ippo import Ippo
from sde_harl.algorithms.on_policy.mappo import Mappo

ON_POLICY: dict[str, type[OnPolicy]] = {
    "happo": Happo,
    "hatrpo": Hatrpo,
    "haa2c": Haa2c,
    "mappo": Mappo,
    "ippo": Ippo,
}

OFF_POLICY: dict[str, type[OffPolicy]] = {
    "hasac": Hasac,
    "haddpg": Haddpg,
    "hatd3": Hatd3,
    "had3qn": Had3qn,
    "maddpg": Maddpg,
    "matd3": Matd3,
}

ALGORITHMS: dict[str, type[Algorithm]] = {**ON_POLICY, **OFF_POLICY}
