"""Lists the placements, by `placement.mode`. A new one is a module in this package and an entry."""

from __future__ import annotations

from collections.abc import Callable

from sde_harl.config.schema import PlacementConfig, PolicyConfig
from sde_harl.placement.base import Placement
from sde_harl.placement.on_device import OnDevice
from sde_harl.placement.split import Split
from sde_harl.policy.shapes import runs_on_device


def _where_the_policy_runs(policy: PolicyConfig) -> type[Placement]:
    if runs_on_device(policy):
        return OnDevice
    return Split


PLACEMENTS: dict[str, Callable[[PolicyConfig], type[Placement]]] = {
    # These differ in the transport, or in the process that plays, which a slot doesn't see.
    "local": _where_the_policy_runs,
    "agents": _where_the_policy_runs,
    "envs": _where_the_policy_runs,
}


def find_placement(placement: PlacementConfig, policy: PolicyConfig) -> type[Placement]:
    """Returns the placement that the configuration asks for."""
    return PLACEMENTS[placement.mode](policy)
