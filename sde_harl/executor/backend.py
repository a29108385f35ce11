"""Choosing what computes the local nets on this host: numpy unless another is asked for."""

from __future__ import annotations

import importlib
from functools import partial

from sde_harl.errors import UserError
from sde_harl.link.wire import WireError
from sde_harl.policy.inference.local_nets import LocalNets, MakeNets

DEVICES = {
    "numpy": ("cpu",),
    "torch": ("cpu", "cuda"),
    "onnx": ("cpu", "cuda", "tensorrt"),
}
"""By `executor.backend`: what `executor.device` may be."""
CLASSES = {
    "torch": ("sde_harl.policy.local_torch", "TorchLocalNets"),
    "onnx": ("sde_harl.policy.local_onnx", "OnnxLocalNets"),
}
"""Imported when asked for, so that a host whose nets numpy computes needs neither."""


def find_nets(backend: str, device: str) -> MakeNets:
    """Returns what makes local nets, called as `LocalNets`.

    Raises UserError where this host lacks the library, and WireError for a backend or a device that
    can't be meant.
    """
    # Checked, because they come from the wire, and torch would take other words, too.
    if device not in DEVICES.get(backend, ()):
        raise WireError("welcome")
    if backend == "numpy":
        return LocalNets
    module, name = CLASSES[backend]
    try:
        nets = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise UserError(f"executor.backend: {backend} can't be imported here: {error}") from error
    return partial(nets, device=device)
