"""The replay: what was played so far, for algorithms that learn from it again and again.

Each environment is a stream of entries in a ring of its own. An entry is what the agents saw and
did, and what they earned by it; what it led to is what the next entry of the stream saw, so nothing
is stored twice. Where an episode was cut, a closing entry follows, which holds its last
observations and in which nothing was done. (EnvStep knows no available actions for them: those of
the step before stand in.) After a terminated episode nothing counts, so it needs none.

    stream    o0 a0 r0 | o1 a1 r1 cut | o2 closing | o0' a0' r0' | ...   newest
    learnable     x         x               -             x                -

The newest entry is not learnt from until its successor is there, nor is anything of a void episode.
A row of n steps ends early at the end of its episode and before the newest entry; it has a discount
of its own for what follows.

N agents, T time, E environments, L entries of a ring, R = E L rows, B rows of a sample, n steps of
a return, O observation, A choices, D numbers of an action, S state, Z latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sde_harl.buffers import _returns
from sde_harl.buffers.entries import Entries
from sde_harl.buffers.rollout import Rollout
from sde_harl.envs.base import EnvSpec

TRIES = 100
"""Draws of a sample before the replay counts as having nothing to learn from."""


class Sample(NamedTuple):
    """B rows to learn from. What was seen is of 2 B entries: where the rows begin, and where the
    steps of their returns have led to."""

    obs: NDArray[Any]
    """(N, 2 B, O)."""
    state: NDArray[Any]
    """(2 B, S)."""
    available: NDArray[np.bool_]
    """(N, 2 B, A)."""
    active: NDArray[np.bool_]
    """(N, 2 B), True where the agent is alive."""
    latents: NDArray[np.float32]
    """(N, 2 B, Z) that the server decided on; Z = 0 where they are not kept."""
    sent: NDArray[np.bool_]
    """(N, 2 B), True where there was such a latent."""
    actions: NDArray[Any]
    """(N, B, D)."""
    returns: NDArray[np.float32]
    """(B,), the discounted rewards of up to n steps."""
    discounts: NDArray[np.float32]
    """(B,), gamma to the power of the row's own number of steps; 0 where the game ended."""
    age: float
    """Mean age of the rows, in steps of their environments."""


class Returns(NamedTuple):
    """The returns of B rows over up to n steps."""

    counts: NDArray[np.int64]
    """(B,) steps of each."""
    returns: NDArray[np.float32]
    """(B,)."""
    discounts: NDArray[np.float32]
    """(B,), gamma to the power of the count."""


class Place(NamedTuple):
    """How far a replay is."""

    before: NDArray[np.int64]
    """(E,) entries that each stream ever had before the last rollout."""
    after: NDArray[np.int64]
    """(E,) entries that each stream has ever had: the number of its next one."""


class Replay:
    """Holds the newest entries of every environment, in arrays that are allocated once."""

    def __init__(
        self,
        spec: EnvSpec,
        *,
        capacity: int,
        envs: int,
        obs_dtype: str = "float32",
        latent_size: int = 0,
        folder: Path | None = None,
    ) -> None:
        """`capacity`: entries of all environments together; the others as for `Entries`."""
        self._envs = envs
        self.length = max(capacity // envs, 2)
        self._entries = Entries(
            spec,
            envs * self.length,
            obs_dtype=obs_dtype,
            latent_size=latent_size,
            folder=folder,
        )
        self.place = Place(before=np.zeros(envs, np.int64), after=np.zeros(envs, np.int64))

    @property
    def nbytes(self) -> int:
        """Returns the bytes of all arrays."""
        return self._entries.nbytes

    def __len__(self) -> int:
        """Returns the entries that are kept."""
        return int(np.minimum(self._next, self.length).sum())

    def add(self, rollout: Rollout) -> None:
        """Appends a rollout, which must have its final observations.

        Raises ValueError for one that a ring has no room for.
        """
        cut = rollout.truncated
        steps = len(cut)
        if 2 * steps > self.length:
            raise ValueError(f"a rollout of {steps} steps in rings of {self.length} entries")
        if rollout.anew.any():
            self._break_off(rollout.anew)
        # Each cut before a step of the same stream has put a closing entry in between.
        closings = np.cumsum(cut, 0)
        numbers = self._next + np.arange(steps)[:, None] + closings - cut  # (T, E)
        rows = self._rows(numbers)
        self._entries.write(rollout, rows)
        if cut.any():
            self._entries.close(rollout, rows, self._rows(numbers + 1))
        self.place = Place(before=self._next, after=self._next + steps + closings[-1])
        self._strike_out(rollout.void, numbers)

    def sample(
        self, batch: int, generator: torch.Generator, *, steps: int, gamma: float
    ) -> Sample | None:
        """Returns `batch` random rows with returns of up to `steps` steps.

        Returns None where there is nothing to learn from.
        """
        drawn = self._draw(batch, generator)
        if drawn is None:
            return None
        env, number = drawn
        first = number % self.length + env * self.length
        parts = self._returns(first, np.minimum(self._next[env] - 1 - number, steps), gamma)
        last = self._later(first, parts.counts - 1)
        ends = self._entries.take(np.concatenate([first, self._later(last, 1)]))
        # Not kept unless they are learnt from.
        latents = ends.get("latents", np.zeros((2 * batch, 0, 0), np.float32))
        return Sample(
            obs=_plain(ends["obs"].swapaxes(0, 1)),
            state=_plain(ends["state"]),
            available=ends["available"].swapaxes(0, 1),
            active=ends["active"].T,
            latents=latents.swapaxes(0, 1),
            sent=ends["sent"].T,
            actions=ends["actions"][:batch].swapaxes(0, 1),
            returns=parts.returns,
            discounts=parts.discounts * ~self._entries.terminated[last],
            age=float((self._next[env] - number).mean()),
        )

    def rewards(self) -> NDArray[np.float32]:
        """Returns the rewards of all that was played and is kept, but for void episodes."""
        kept = np.arange(self.length) < self._next[:, None]  # (E, L)
        rewards: NDArray[np.float32] = self._entries.rewards[kept.ravel() & self._entries.learnable]
        return rewards

    def clear(self) -> None:
        """Forgets everything."""
        nothing = np.zeros(self._envs, np.int64)
        self.place = Place(before=nothing, after=nothing)

    def raw(self) -> dict[str, NDArray[Any]]:
        """Returns every array (R, ...) by name, those that lie together as one."""
        return self._entries.raw()

    def layout(self) -> str:
        """Returns the types and sizes of all arrays as text, equal for equal ones."""
        raw = {name: (each.dtype, each.shape) for name, each in self.raw().items()}
        return f"{self._envs} streams of {self.length}: {raw}"

    def state_dict(self) -> dict[str, Tensor]:
        """Returns all arrays as they are, not copied."""
        return {name: torch.from_numpy(each) for name, each in self._named().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state_dict` returned. Raises ValueError for one of other sizes."""
        for name, own in self._named().items():
            theirs = state[name].numpy()
            if theirs.shape != own.shape or theirs.dtype != own.dtype:
                raise ValueError(f"{name}: expected {own.shape}, got {theirs.shape}")
            own[:] = theirs

    @property
    def _next(self) -> NDArray[np.int64]:
        return self.place.after

    def _named(self) -> dict[str, NDArray[Any]]:
        return {**self._entries.arrays, "next": self._next}

    def _rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the rows of entries (..., E) of each stream, by their numbers."""
        rows: NDArray[np.int64] = numbers % self.length + np.arange(self._envs) * self.length
        return rows

    def _break_off(self, anew: NDArray[np.bool_]) -> None:
        """Ends the episodes of streams where `anew` (E,): their newest entries close them."""
        newest = self._next - 1
        rows = self._rows(newest)
        going = anew & (newest >= 0) & ~self._entries.ended[rows]
        # None is before the first entry of a stream, which then is a closing one alone.
        self._entries.break_off(rows[going], self._rows(newest - 1)[going & (newest > 0)])

    def _strike_out(self, void: NDArray[np.bool_], numbers: NDArray[np.int64]) -> None:
        """Takes void episodes out, their parts in earlier rollouts too; void, numbers (T, E)."""
        for e in np.flatnonzero(void.any(0)):
            own = numbers[void[:, e], e]
            self._entries.learnable[own % self.length + e * self.length] = False
            if not void[0, e]:
                continue
            # The episode began before this rollout: back to where the one before it ended.
            oldest = max(0, self._next[e] - self.length)
            for number in range(int(own[0]) - 1, int(oldest) - 1, -1):
                row = number % self.length + e * self.length
                if self._entries.ended[row]:
                    break
                self._entries.learnable[row] = False

    def _draw(
        self, batch: int, generator: torch.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Returns environments and numbers (B,) of random entries that may be learnt from."""
        # Of each stream all but its newest entry. Streams differ a little, by their closings.
        kept = np.minimum(self._next, self.length) - 1
        most = int(kept.max())
        if most <= 0:
            return None
        oldest = self._next - 1 - kept
        envs: list[NDArray[np.int64]] = []
        numbers: list[NDArray[np.int64]] = []
        missing = batch
        for _ in range(TRIES):
            # Closing entries and void ones are few: what is missing is drawn again. A list of all
            # rows would have to be made anew for every sample.
            places = torch.randint(self._envs * most, (missing,), generator=generator).numpy()
            env = places // most
            place = places % most
            number = oldest[env] + place
            good = self._entries.learnable[number % self.length + env * self.length]
            good &= place < kept[env]
            envs.append(env[good])
            numbers.append(number[good])
            missing -= len(envs[-1])
            if not missing:
                return np.concatenate(envs), np.concatenate(numbers)
        return None

    def _returns(self, first: NDArray[np.int64], most: NDArray[np.int64], gamma: float) -> Returns:
        """Returns the returns that begin at rows (B,), each of at most `most` (B,) steps."""
        entries = self._entries
        powers = np.power(np.float32(gamma), np.arange(int(most.max()) + 1), dtype=np.float32)
        counts = np.empty_like(first)
        returns = np.empty(len(first), np.float32)
        _returns.gather(
            first,
            most,
            entries.ended,
            entries.rewards,
            powers,
            counts,
            returns,
            self.length,
        )
        return Returns(counts=counts, returns=returns, discounts=powers[counts])

    def _later(self, rows: NDArray[np.int64], steps: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """Returns the rows of the entries of the same streams so many steps later, at most L."""
        later = rows + steps
        # A ring begins at a multiple of L.
        later -= self.length * (later // self.length != rows // self.length)
        return later


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Returns an array in a type that the nets take: float32 or bytes."""
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array
