"""The state of an optimiser as plain tensors, which checkpoints can hold.

torch's own `state_dict` also has lists, None and the hyperparameters. Those are not state here: the
configuration says what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """Returns the moments of each parameter, by its place among the optimiser's parameters."""
    own = optimizer.state_dict()
    moments = {str(place): dict(each) for place, each in own["state"].items()}
    return {"parameters": _count(optimizer), "moments": moments}


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Takes over what `optimizer_state` returned.

    Raises ValueError for the state of an optimiser with another number of parameters.
    """
    if state["parameters"] != _count(optimizer):
        raise ValueError(f"parameters: expected {_count(optimizer)}, got {state['parameters']}")
    # Before its first step an optimiser has no moments, and a file keeps no empty mapping.
    moments = {
        int(place): {name: tensor.clone() for name, tensor in each.items()}
        for place, each in state.get("moments", {}).items()
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def _count(optimizer: Optimizer) -> int:
    return sum(len(group["params"]) for group in optimizer.param_groups)
