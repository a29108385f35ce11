"""Two of SMAC's maps."""

from __future__ import annotations

from typing import Any


def get_smac_map_registry() -> dict[str, dict[str, Any]]:
    """Returns what the client knows of its maps."""
    marines = {"n_agents": 3, "n_enemies": 3, "limit": 12, "map_type": "marines"}
    mixed = {"n_agents": 5, "n_enemies": 5, "limit": 12, "map_type": "stalkers_and_zealots"}
    return {"3m": marines, "2s3z": mixed}
