"""Algorithms by name; each is one module, one YAML in configs/algos and one entry here."""

from __future__ import annotations

from sde_harl.algorithms.haa2c import Haa2c
from sde_harl.algorithms.happo import Happo
from sde_harl.algorithms.hatrpo import Hatrpo
from sde_harl.algorithms.ippo import Ippo
from sde_harl.algorithms.mappo import Mappo
from sde_harl.algorithms.on_policy import OnPolicy

ALGORITHMS: dict[str, type[OnPolicy]] = {
    "happo": Happo,
    "hatrpo": Hatrpo,
    "haa2c": Haa2c,
    "mappo": Mappo,
    "ippo": Ippo,
}
