"""The actions of the episodes under way, by which an interrupted episode is brought back.

Few benchmarks can save a half-played game, but most play the same game again from the same seed and
the same actions.

E environments, N agents, D numbers of an action, L steps of the longest episode under way.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sde_harl.envs.base import EnvSpec, EnvStep

MOST_STEPS = 8192
"""Steps of an episode that are kept. A longer one can't be brought back: it begins anew."""
FIRST_STEPS = 64


class ActionHistory:
    """Keeps what has been played since each environment's episode began."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """`shape` is (E, N, D)."""
        envs, agents, dimensions = shape
        self._rows = np.arange(envs)
        self._lengths = np.zeros(envs, np.int64)
        self._actions = np.zeros((envs, FIRST_STEPS, agents, dimensions), dtype)

    def add(self, actions: NDArray[Any]) -> None:
        """Keeps one step's actions (E, N, D)."""
        places = self._lengths
        if places.max() >= self._actions.shape[1]:
            self._grow()
            # Beyond the limit the last step is overwritten; `state` leaves such episodes out.
            places = np.minimum(places, self._actions.shape[1] - 1)
        self._actions[self._rows, places] = actions
        self._lengths += 1

    def end(self, step: EnvStep) -> None:
        """Forgets the episodes that ended with this step."""
        self._lengths[step.terminated | step.truncated] = 0

    def clear(self) -> None:
        """Forgets everything: all episodes begin."""
        self._lengths[:] = 0

    def state(self, step: EnvStep) -> dict[str, NDArray[Any]]:
        """Returns lengths (E,), actions (E, L, N, D) and what `step`, the last one, has shown.

        The length is 0 where more was played than is kept.
        """
        lengths = np.where(self._lengths > MOST_STEPS, 0, self._lengths)
        actions = self._actions[:, : lengths.max()].copy()
        # Behind an episode's last step lies what an earlier one left there.
        actions[np.arange(actions.shape[1]) >= lengths[:, None]] = 0
        return {"lengths": lengths, "actions": actions, "seen": _seen(step)}

    def load(self, past: Past) -> None:
        """Goes on from what was played before."""
        self._lengths[:] = past.lengths
        while self._actions.shape[1] < past.actions.shape[1]:
            self._grow()
        self._actions[:, : past.actions.shape[1]] = past.actions

    def _grow(self) -> None:
        if self._actions.shape[1] < MOST_STEPS:
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)], 1)


class Past(NamedTuple):
    """The episodes that were under way when a run was interrupted."""

    lengths: NDArray[np.int64]
    """(E,) steps that were played."""
    actions: NDArray[Any]
    """(E, L, N, D)."""
    seen: NDArray[np.int64]
    """(E,) checksum of the observations that the last step showed."""

    @classmethod
    def checked(cls, state: Mapping[str, NDArray[Any]], spec: EnvSpec, envs: int) -> Past:
        """Returns the past in the state of a vector of `envs` environments.

        Raises ValueError where the state is not of such a vector.
        """
        past = cls(lengths=state["lengths"], actions=state["actions"], seen=state["seen"])
        for name in ("lengths", "seen"):
            array = getattr(past, name)
            if array.shape != (envs,) or array.dtype != np.int64:
                raise ValueError(f"{name}: {array.dtype} {array.shape}")
        steps = int(past.lengths.max())
        if past.actions.shape != (envs, steps, len(spec.agents), len(spec.branches)):
            raise ValueError(f"actions: {past.actions.shape}")
        if past.actions.dtype != spec.action_dtype or past.lengths.min() < 0 or steps > MOST_STEPS:
            raise ValueError(f"actions: {past.actions.dtype}, {steps} steps")
        if not spec.continuous and not _are_choices(past.actions, spec):
            raise ValueError("actions: choices that these agents don't have")
        return past

    def steps(self) -> Iterator[tuple[NDArray[np.bool_], NDArray[Any]]]:
        """Yields which environments wait (E,), and the actions (E, N, D) of the others.

        All of them come to their last step together.
        """
        longest = int(self.lengths.max())
        rows = np.arange(len(self.lengths))
        for step in range(longest):
            places = step - (longest - self.lengths)
            yield places < 0, self.actions[rows, np.maximum(places, 0)]

    def is_possible(
        self,
        actions: NDArray[Any],
        paused: NDArray[np.bool_],
        *,
        step: EnvStep,
        spec: EnvSpec,
    ) -> bool:
        """Returns False where `step` shows a game in which actions (E, N, D) can't be done.

        It is another game than the one that was played, and may fail on such an action.
        """
        if spec.continuous:
            return True
        begins = np.cumsum((0, *spec.branches))[:-1]  # (D,) where each branch begins among the A
        available = np.take_along_axis(step.available_actions, actions + begins, -1)  # (E, N, D)
        return bool((available.all((1, 2)) | paused).all())

    def is_back(self, step: EnvStep) -> bool:
        """Returns True where every environment shows what it showed before."""
        return bool((_seen(step) == self.seen).all())


def _are_choices(actions: NDArray[Any], spec: EnvSpec) -> bool:
    """Returns whether all choices (E, L, N, D) are among the agents' own."""
    sizes = np.ones((len(spec.agents), len(spec.branches)), np.int64)
    for agent, own in enumerate(spec.action_sizes):
        sizes[agent, : len(own)] = own
    return bool(((actions >= 0) & (actions < sizes)).all())


def _seen(step: EnvStep) -> NDArray[np.int64]:
    return np.array([zlib.crc32(obs.tobytes()) for obs in step.obs], np.int64)
