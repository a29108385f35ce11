"""Finds the placement that a configuration asks for."""

from __future__ import annotations

from sde_harl.config.schema import PolicyConfig
from sde_harl.placement.base import Placement
from sde_harl.placement.on_device import OnDevice
from sde_harl.placement.split import Split
from sde_harl.policy.shapes import runs_on_device


def find_placement(policy: PolicyConfig) -> type[Placement]:
    """Returns the placement of these policies."""
    # placement.mode doesn't matter here: `local` and `agents` differ in the transport alone.
    if runs_on_device(policy):
        return OnDevice
    return Split
