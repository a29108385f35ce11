"""Saves the state of every part of a run, and starts a run from the nets of another."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from sde_harl.config.wording import shown
from sde_harl.errors import UserError
from sde_harl.record.checkpoint import Checkpoint, State, flatten, load, save
from sde_harl.training.counters import Counters
from sde_harl.training.environments import Environments
from sde_harl.training.learned import Learned

ENTROPY_MODEL = "latent_model"
"""Part of the names of an entropy model's tensors. A checkpoint may have such tensors although the
run that reads it has a plain codec."""
FALLBACK_HEAD = "fallback_head"
"""The fallback heads' name in a checkpoint."""
LARGEST = 1e18
"""Bound of the norm of all numbers that are kept. The square of a larger one has no place in a
float32."""


class Stateful(Protocol):
    """A part with a state, in torch's words."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> object: ...


class Stored(Protocol):
    """A part whose state is stored."""

    def state_dict(self) -> Mapping[str, Any]: ...


class Checkpoints:
    """Knows which parts of a run have a state, and what a checkpoint calls them."""

    def __init__(
        self,
        *,
        learned: Learned,
        counters: Counters,
        environments: Environments,
        env: str,
        algo: str,
    ) -> None:
        """`env`, `algo`: names that a checkpoint carries for its reader."""
        self._learned = learned
        self._counters = counters
        self._environments = environments
        self._env = env
        self._algo = algo
        self._late: dict[str, Stored] = {}
        self._kept: dict[str, State] = {}

    def parts(self) -> dict[str, Stateful]:
        """Returns every stateful part by its name."""
        learned = self._learned
        parts: dict[str, Stateful] = {
            "policy": learned.policy,
            # The critic with its memory and its value normaliser; all optimisers of both.
            "algorithm": learned.algorithm,
            "rate_control": learned.rate_control,
            "counters": self._counters,
            "environments": self._environments,
        }
        if learned.diversity:
            parts["diversity"] = learned.diversity
        if learned.fallback:
            parts[FALLBACK_HEAD] = learned.fallback
        return parts

    def state(self) -> dict[str, State]:
        """Returns the states of all parts, and how far the record is."""
        parts = {**self.parts(), **self._late}
        return {name: _as_tensors(part.state_dict()) for name, part in parts.items()}

    def keep(self) -> None:
        """Copies the state of all parts, which `save` writes from now on.

        What changes after it, such as half of an update, never gets into a file.
        """
        self._kept = _copy(self.state())

    def check(self) -> None:
        """Raises UserError where a number of the state isn't finite, or is absurdly large."""
        _check_numbers(self.state(), self._counters.steps)

    def save(self, path: Path) -> None:
        """Writes what `keep` copied. Raises UserError where it can't be written."""
        about = {"env": self._env, "algo": self._algo, "groups": self._groups()}
        save(path, {"run": about, **self._kept})

    def store_beside(self, folder: Path) -> None:
        """Stores what is too large for a checkpoint. Raises UserError where it can't be written."""
        self._learned.algorithm.store(folder)

    def add(self, name: str, part: Stored) -> None:
        """Adds a part that is made after the others, and that takes its state over by itself."""
        self._late[name] = part

    def resume(self, checkpoint: Checkpoint) -> None:
        """Goes on where a run stopped. Raises UserError where the file is of another run."""
        self._check_groups(checkpoint)
        parts = self.parts()
        environments = parts.pop("environments")
        # All parts are checked before the first one changes.
        states = {name: checkpoint.take(name, part.state_dict()) for name, part in parts.items()}
        for name, part in parts.items():
            load_part(checkpoint.path, part, states[name])
        # Their own check: how much was played of the episodes under way is in no other state.
        load_part(checkpoint.path, environments, as_arrays(checkpoint.nested("environments")))
        # The last version is published again.
        self._counters.version -= 1

    def start_from(self, path: Path, *, learns: bool) -> None:
        """Takes over the nets of another run; optimisers and counters start anew.

        Episodes and random draws go on where the other run's ended, so that a run with the same
        seed doesn't learn from the same games again.

        learns: False for a run that only plays, whose nets must all be in the file. Raises
        UserError where the nets are not of this configuration; nothing is changed then.
        """
        checkpoint = load(path)
        parts = self._nets_in(checkpoint)
        # All parts are checked before the first one changes.
        states = {
            name: checkpoint.take(name, part.state_dict(), spare=ENTROPY_MODEL)
            for name, part in parts.items()
        }
        self._check_groups(checkpoint)
        if not learns:
            self._check_fallback(checkpoint)
        # Backwards: only the fallback heads may still refuse their state, so they come first.
        for name in reversed(parts):
            load_part(path, parts[name], states[name])
        if learns:
            self._go_on_from(checkpoint)

    def _go_on_from(self, checkpoint: Checkpoint) -> None:
        """Begins behind the other run's episodes and draws."""
        theirs = Counters()
        load_part(checkpoint.path, theirs, checkpoint.take("counters", theirs.state_dict()))
        self._counters.past_steps = theirs.drawn_steps
        played = [
            int(value.max())
            for name, value in checkpoint.values.items()
            if name.startswith("environments/")
            and name.endswith("/episodes")
            and isinstance(value, torch.Tensor)
            and value.numel()
        ]
        with _refusing(checkpoint.path):
            # One more: the episode that each environment was in the middle of.
            self._environments.begin_at(max(played, default=0) + 1)

    def _nets_in(self, checkpoint: Checkpoint) -> dict[str, Stateful]:
        """Returns the parts to load from another run's checkpoint, by their names in it."""
        parts: dict[str, Stateful] = {"policy": self._learned.policy}
        # Not all of the algorithm: its optimisers and the counters belong to the other run's past.
        for name, net in self._learned.algorithm.nets().items():
            parts[f"algorithm/{name}"] = net
        fallback = self._learned.fallback
        if fallback and checkpoint.holds(FALLBACK_HEAD):
            # Their optimiser is part of their state: the policies that they imitate are the same.
            parts[FALLBACK_HEAD] = fallback
        return parts

    def _check_groups(self, checkpoint: Checkpoint) -> None:
        """Raises UserError for nets that were learnt in other role groups."""
        ours = self._groups()
        # The same agents in other groups can have nets of the same shapes: shapes don't tell.
        theirs = checkpoint.values.get("run/groups", ours)
        if theirs != ours:
            raise UserError(
                f"train.load: {checkpoint.path} is of the role groups {shown(str(theirs))}, "
                f"not {ours}"
            )

    def _check_fallback(self, checkpoint: Checkpoint) -> None:
        """Raises UserError where fallback heads are to act that the checkpoint doesn't have."""
        if self._learned.fallback and not checkpoint.holds(FALLBACK_HEAD):
            raise UserError(
                f"policy.fallback_head: expected false, for {checkpoint.path} has no fallback "
                "heads and train.steps = 0"
            )

    def _groups(self) -> str:
        """Returns the role groups as a checkpoint names them."""
        return json.dumps([net.members for net in self._learned.policy.groups])


def _as_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a state with tensors where parts that know no torch have arrays."""
    tensors: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            value = _as_tensors(value)
        elif isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        tensors[name] = value
    return tensors


def as_arrays(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a state with arrays where a checkpoint has tensors."""
    arrays: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            value = as_arrays(value)
        elif isinstance(value, torch.Tensor):
            value = value.numpy()
        arrays[name] = value
    return arrays


def _copy(state: Mapping[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            value = _copy(value)
        elif isinstance(value, torch.Tensor):
            value = value.detach().clone()
        copied[name] = value
    return copied


def _check_numbers(state: State, steps: int) -> None:
    """Raises UserError where learning has made numbers that nothing can go on from."""
    floats = {
        name: value
        for name, value in flatten(state).items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    # Not `> LARGEST`, which is false for NaN.
    if nn.utils.get_total_norm(floats.values()) <= LARGEST:
        return
    norms = {name: float(value.detach().norm()) for name, value in floats.items()}
    name = max(norms, key=lambda each: (math.isnan(norms[each]), norms[each]))
    worst = float(floats[name].detach().abs().max())
    raise UserError(
        f"learning has become unstable: {name} reached {worst:g} after {steps:,} steps "
        "(a smaller algo.lr may help); what was learnt up to the update before is saved"
    )


def load_part(path: Path, part: Stateful, state: State) -> None:
    """Has a part take over its state. Raises UserError where the state is of another run."""
    with _refusing(path):
        part.load_state_dict(state)


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turns what parts raise for the state of another run into a UserError that names the file."""
    try:
        yield
    except (ValueError, KeyError, OverflowError) as error:
        raise UserError(f"{path}: not a checkpoint of such a run: {error}") from error
