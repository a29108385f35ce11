"""Algorithms by name.

Each is one module, one YAML in sde_harl/config/presets/algorithms and one entry here.
"""

from __future__ import annotations

from sde_harl.algorithms.on_policy.base import OnPolicy
from sde_harl.algorithms.on_policy.haa2c import Haa2c
from sde_harl.algorithms.on_policy.happo import Happo
from sde_harl.algorithms.on_policy.hatrpo import Hatrpo
from sde_harl.algorithms.on_policy.ippo import Ippo
from sde_harl.algorithms.on_policy.mappo import Mappo

ALGORITHMS: dict[str, type[OnPolicy]] = {
    "happo": Happo,
    "hatrpo": Hatrpo,
    "haa2c": Haa2c,
    "mappo": Mappo,
    "ippo": Ippo,
}
