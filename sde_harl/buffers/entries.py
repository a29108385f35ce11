"""The memory of a replay: arrays of R entries, allocated once, in memory or in a file.

N agents, R entries, T time, E environments, O observation, A choices, D numbers of an action, S
state, Z latent.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.buffers import _returns
from sde_harl.buffers.rollout import Rollout
from sde_harl.envs.base import EnvSpec
from sde_harl.errors import UserError


@contextlib.contextmanager
def _refusing_overflow() -> Iterator[None]:
    """Raises UserError where a number becomes infinite in the type that it is stored in."""
    try:
        with np.errstate(over="raise"):
            yield
    except FloatingPointError as error:
        raise UserError(
            "algo.buffer_dtype=float16: an observation or a state exceeds 65504, the largest number"
            " of float16; set algo.buffer_dtype=float32"
        ) from error


class Entries:
    """Observations, actions and rewards of R steps.

    What a sample reads of an entry lies together: the rows of a sample are far apart in memory, and
    each place costs a wait. What it reads of the steps of a return, which lie side by side, has
    arrays of its own.
    """

    def __init__(
        self,
        spec: EnvSpec,
        rows: int,
        *,
        obs_dtype: str = "float32",
        latent_size: int = 0,
        folder: Path | None = None,
    ) -> None:
        """`obs_dtype`: type that observations and states of floats are kept in; bytes stay bytes.

        `folder`: where a file is to hold the entries instead of the memory. It has no name, so that
        nothing of it stays behind. Raises UserError where there is no room for it.
        """
        agents = len(spec.agents)
        fields = [
            ("obs", _stored(spec.obs_dtype, obs_dtype), (agents, max(spec.obs_sizes))),
            ("state", _stored(spec.state_dtype, obs_dtype), (spec.state_size,)),
            ("actions", spec.action_dtype, (agents, len(spec.branches))),
            ("available", "bool", (agents, sum(spec.branches))),
            ("active", "bool", (agents,)),
            ("sent", "bool", (agents,)),
        ]
        if latent_size:
            fields.append(("latents", "float32", (agents, latent_size)))
        kind = np.dtype(fields, align=True)
        self._entries = _zeros(rows, kind) if folder is None else _in_file(folder, rows, kind)
        self.rewards = _zeros(rows, np.dtype(np.float32))
        flag = np.dtype(bool)
        self.terminated = _zeros(rows, flag)
        self.ended = _zeros(rows, flag)
        self.learnable = _zeros(rows, flag)
        self.arrays = self._named()
        """Every array by its name; what lies together, as views."""

    @property
    def nbytes(self) -> int:
        """Returns the bytes of all arrays."""
        return sum(each.nbytes for each in self.raw().values())

    def write(self, rollout: Rollout, rows: NDArray[np.int64]) -> None:
        """Writes the steps of a rollout to rows (T, E).

        Raises UserError where float16 can't hold what was observed.
        """
        arrays = self.arrays
        steps = len(rows)
        size = arrays["state"].shape[-1]
        # Agents come first in a rollout, and behind the row here: (N, T, E, O) -> (T, E, N, O).
        for name, array in (
            ("available", rollout.available_actions),
            ("active", rollout.active_masks),
            ("actions", rollout.actions),
            ("sent", rollout.decided),
        ):
            arrays[name][rows] = np.moveaxis(array, 0, 2)
        if "latents" in arrays:
            arrays["latents"][rows] = np.moveaxis(rollout.latents, 0, 2)
        with _refusing_overflow():
            arrays["obs"][rows] = np.moveaxis(rollout.obs, 0, 2)
            # A critic that is shown each agent's observation has the state before it.
            arrays["state"][rows] = rollout.critic_inputs[0, :steps, :, :size]
        arrays["rewards"][rows] = rollout.rewards
        arrays["terminated"][rows] = rollout.terminated
        arrays["ended"][rows] = rollout.ended
        arrays["learnable"][rows] = True

    def close(self, rollout: Rollout, rows: NDArray[np.int64], after: NDArray[np.int64]) -> None:
        """Writes the closing entries behind the steps that cut an episode, to rows `after`."""
        arrays = self.arrays
        cut = rollout.truncated
        size = arrays["state"].shape[-1]
        closing = after[cut]
        with _refusing_overflow():
            arrays["obs"][closing] = rollout.final_obs[:, cut].swapaxes(0, 1)
            arrays["state"][closing] = rollout.final_critic_inputs[0][cut][:, :size]
        for name in ("available", "active"):
            arrays[name][closing] = arrays[name][rows[cut]]
        arrays["sent"][closing] = False
        arrays["learnable"][closing] = False
        arrays["ended"][closing] = True

    def break_off(self, newest: NDArray[np.int64], before: NDArray[np.int64]) -> None:
        """Makes rows `newest` closing entries, behind the steps of rows `before`."""
        self.learnable[newest] = False
        self.ended[newest] = True
        self.ended[before] = True

    def raw(self) -> dict[str, NDArray[Any]]:
        """Returns every array (R, ...) by name, those that lie together as one, `entries`."""
        apart = {
            name: each
            for name, each in self.arrays.items()
            if name not in (self._entries.dtype.names or ())
        }
        return {"entries": self._entries, **apart}

    def take(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Returns copies of what was seen and done in some entries, by name."""
        # As bytes: numpy copies entries field by field.
        kind = self._entries.dtype
        copies = np.empty((len(rows), kind.itemsize), np.uint8)
        _returns.take(self._entries.view(np.uint8).reshape(-1, kind.itemsize), rows, copies)
        taken = copies.view(kind)[:, 0]
        return {name: taken[name] for name in kind.names or ()}

    def _named(self) -> dict[str, NDArray[Any]]:
        names = self._entries.dtype.names or ()
        return {
            **{name: self._entries[name] for name in names},
            "rewards": self.rewards,
            "terminated": self.terminated,
            "ended": self.ended,
            "learnable": self.learnable,
        }


def _stored(dtype: str, floats: str) -> str:
    """Returns the type that an array of the type `dtype` is kept in."""
    if dtype == "float32":
        return floats
    return dtype


def _zeros(rows: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """Returns zeros (rows,), in huge pages where the system has them.

    They take no memory until they are written. With pages of 4 KiB, reading a random row would cost
    a walk through the page tables, too. Raises UserError where there is no memory for them.
    """
    size = rows * kind.itemsize
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"algo.buffer_size: no memory for a replay of {size / 1e9:,.1f} GB: {error}"
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux alone has it
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, kind)


def _in_file(folder: Path, rows: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """Returns zeros (rows,) that a file in `folder` holds."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Asked for now: a full disk would end the process later, when a page is written.
            os.posix_fallocate(file.fileno(), 0, rows * kind.itemsize)
            return np.memmap(file, kind, "r+", shape=(rows,))
    except OSError as error:
        size = rows * kind.itemsize / 1e9
        raise UserError(
            f"algo.buffer_folder: {folder} can't hold a replay of {size:,.1f} GB: {error.strerror}"
        ) from error
