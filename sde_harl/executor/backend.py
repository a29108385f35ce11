"""Choosing what computes the local nets on this host: numpy, or torch if asked for."""

from __future__ import annotations

from functools import partial

from sde_harl.errors import UserError
from sde_harl.link.wire import WireError
from sde_harl.policy.inference.local_nets import LocalNets, MakeNets


def find_nets(torch_device: str) -> MakeNets:
    """Returns what makes local nets, called as `LocalNets`; `torch_device` is "" for numpy.

    Raises UserError where this host has no torch, and WireError for a device that can't be meant.
    """
    if not torch_device:
        return LocalNets
    # Checked, because it comes from the wire and torch would take other words, too.
    if torch_device not in ("cpu", "cuda"):
        raise WireError("welcome")
    try:
        # Imported here, so that a host whose nets numpy computes needs no torch.
        from sde_harl.policy.local_torch import TorchLocalNets
    except ImportError as error:
        raise UserError(f"executor.backend: torch can't be imported here: {error}") from error
    return partial(TorchLocalNets, device=torch_device)
