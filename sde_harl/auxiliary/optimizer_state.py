"""The state of an optimiser as plain tensors, which checkpoints can hold.

torch's own `state_dict` also has lists, None and the hyperparameters. Those are not state here: the
configuration says what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """Returns the moments of each parameter, by its place among the optimiser's parameters.

    Adam has none before its first step: then they are zero, which is the same to it.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    moments = {
        str(place): dict(optimizer.state[each]) or _no_moments(each)
        for place, each in enumerate(parameters)
    }
    return {"parameters": len(parameters), "moments": moments}


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Takes over what `optimizer_state` returned.

    Raises ValueError for the state of an optimiser with another number of parameters.
    """
    if state["parameters"] != _count(optimizer):
        raise ValueError(f"parameters: expected {_count(optimizer)}, got {state['parameters']}")
    moments = {
        int(place): {name: tensor.clone() for name, tensor in each.items()}
        for place, each in state["moments"].items()
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def _no_moments(parameter: Tensor) -> dict[str, Tensor]:
    return {
        "step": torch.zeros(()),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def _count(optimizer: Optimizer) -> int:
    return sum(len(group["params"]) for group in optimizer.param_groups)
