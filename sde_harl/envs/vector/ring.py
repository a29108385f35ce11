"""The arrays that a vector of games hands out, laid out in one piece of memory and used in turn.

All arrays of a vector lie in one buffer, so that the buffer can be shared with worker processes: a
worker writes its rows where the vector's caller reads them, and no array ever goes through a pipe.
Each step is written into the next of `RING` sets of arrays, so that the steps a caller still holds
stay as they are.
"""

from __future__ import annotations

import math
import mmap
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sde_harl.envs.base import EnvSpec, EnvStep, VectorEnv, loaded_episodes
from sde_harl.envs.vector.arrival import check_finite
from sde_harl.envs.vector.history import ActionHistory, Past

RING = 3
"""Steps in memory: the two that a caller may still read, and the one that is being written."""
ALIGNMENT = 64
"""Bytes of a cache line. Arrays begin on lines of their own."""


class StepBuffers(NamedTuple):
    """Holds the arrays of one step of E environments."""

    step: EnvStep  # `recv` returns it
    seeds: NDArray[np.int64]
    """(E,) seeds of the episodes that the step's `obs` belong to."""
    episodes: NDArray[np.int64]
    """(E,) numbers of these episodes: how many have ended before them."""

    def select(self, envs: slice) -> StepBuffers:
        """Returns the same memory, for some of the environments."""
        step = EnvStep(**{name: array[envs] for name, array in self.step._asdict().items()})
        return StepBuffers(step=step, seeds=self.seeds[envs], episodes=self.episodes[envs])


class VectorBuffers(NamedTuple):
    """Holds all arrays that a vector of E environments reads and writes."""

    actions: NDArray[np.generic]
    """(E, N, D), written by `send`."""
    first_episodes: NDArray[np.int64]
    """(E,) numbers of the episodes that a reset begins."""
    paused: NDArray[np.bool_]
    """(E,), the environment stays as it is in a step; only while episodes are brought back."""
    steps: tuple[StepBuffers, ...]
    """`RING` steps."""

    def select(self, envs: slice) -> VectorBuffers:
        """Returns the same memory, for some of the environments."""
        return VectorBuffers(
            actions=self.actions[envs],
            first_episodes=self.first_episodes[envs],
            paused=self.paused[envs],
            steps=tuple(step.select(envs) for step in self.steps),
        )


class _Array(NamedTuple):
    """Describes one array in the memory."""

    shape: tuple[int, ...]
    dtype: DTypeLike

    def num_bytes(self) -> int:
        """Returns its size, rounded up so that the array behind it is aligned."""
        size = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        return -(-size // ALIGNMENT) * ALIGNMENT

    def over(self, memory: mmap.mmap, offset: int) -> NDArray[Any]:
        """Returns the array that begins `offset` bytes into `memory`."""
        flat = np.frombuffer(memory, self.dtype, math.prod(self.shape), offset)
        return flat.reshape(self.shape)


def _inputs(spec: EnvSpec, num_envs: int) -> dict[str, _Array]:
    """Describes the arrays that a vector gives to its games."""
    shape = (num_envs, len(spec.agents), len(spec.branches))
    return {
        "actions": _Array(shape=shape, dtype=spec.action_dtype),
        "first_episodes": _Array(shape=(num_envs,), dtype=np.int64),
        "paused": _Array(shape=(num_envs,), dtype=np.bool_),
    }


def _outputs(spec: EnvSpec, num_envs: int) -> dict[str, _Array]:
    """Describes the arrays of one `StepBuffers`, by the names of its and EnvStep's fields."""
    each_agent = (num_envs, len(spec.agents))
    obs = _Array(shape=(*each_agent, max(spec.obs_sizes)), dtype=spec.obs_dtype)
    state = _Array(shape=(num_envs, spec.state_size), dtype=spec.state_dtype)
    number = _Array(shape=(num_envs,), dtype=np.float32)
    flag = _Array(shape=(num_envs,), dtype=np.bool_)
    counter = _Array(shape=(num_envs,), dtype=np.int64)
    return {
        "obs": obs,
        "state": state,
        "available_actions": _Array(shape=(*each_agent, sum(spec.branches)), dtype=np.bool_),
        "active": _Array(shape=each_agent, dtype=np.bool_),
        "rewards": number,
        "terminated": flag,
        "truncated": flag,
        "final_state": state,
        "final_obs": obs,
        "won": _Array(shape=(num_envs,), dtype=np.int8),
        "returns": number,
        "lengths": _Array(shape=(num_envs,), dtype=np.int32),
        "void": flag,
        "seeds": counter,
        "episodes": counter,
    }


def _sections(spec: EnvSpec, num_envs: int) -> list[dict[str, _Array]]:
    """Describes all of the memory, in order: the inputs, then `RING` times the outputs."""
    return [_inputs(spec, num_envs), *[_outputs(spec, num_envs)] * RING]


def memory_size(spec: EnvSpec, num_envs: int) -> int:
    """Returns the bytes that `lay_out` needs for `num_envs` environments."""
    sections = _sections(spec, num_envs)
    return sum(array.num_bytes() for section in sections for array in section.values())


def lay_out(memory: mmap.mmap, spec: EnvSpec, num_envs: int) -> VectorBuffers:
    """Returns arrays for `num_envs` environments over `memory`, whose content stays as it is.

    Processes that share the memory and call this with the same arguments get the same arrays.
    """
    offset = 0
    sections: list[dict[str, Any]] = []
    for described in _sections(spec, num_envs):
        arrays: dict[str, Any] = {}
        for name, array in described.items():
            arrays[name] = array.over(memory, offset)
            offset += array.num_bytes()
        sections.append(arrays)
    inputs, *outputs = sections
    return VectorBuffers(**inputs, steps=tuple(map(_step_buffers, outputs)))


def _step_buffers(arrays: dict[str, Any]) -> StepBuffers:
    step = EnvStep(**{name: arrays[name] for name in EnvStep._fields})
    return StepBuffers(step=step, seeds=arrays["seeds"], episodes=arrays["episodes"])


class RingVector(VectorEnv):
    """Writes each step into the next of `RING` sets of arrays.

    A subclass plays the games, in this process or in others: `_start` begins to write a set, and
    `_finish` returns when it is written.
    """

    has_rewards = True
    """False where nobody knows what a step earns: its rewards are NaN."""

    def __init__(self, spec: EnvSpec, num_envs: int, memory: mmap.mmap, *, first_env: int) -> None:
        """Lays the arrays out over `memory`, which must be zero and `memory_size` bytes long."""
        self.spec = spec
        self.num_envs = num_envs
        self._first_env = first_env
        self._buffers = lay_out(memory, spec, num_envs)
        for buffers in self._buffers.steps:
            # most games never write these two: all is available, and every agent is active
            buffers.step.available_actions[:] = spec.choices()
            buffers.step.active[:] = True
        self._index = 0  # of the set that was written last, or is being written
        self._is_pending = False
        self._history = ActionHistory(self._buffers.actions.shape, self._buffers.actions.dtype)
        self._past: Past | None = None

    def reset(self) -> EnvStep:
        if self._is_pending:
            self.recv()  # a step that is under way would write into the games that begin anew
        self._history.clear()
        self._next(is_reset=True)
        step = self.recv()
        if self._past:
            return self._bring_back(self._past, step)
        return step

    def _bring_back(self, past: Past, step: EnvStep) -> EnvStep:
        """Plays interrupted episodes again to where they stood; `step` is their beginning."""
        for paused, actions in past.steps():
            if not past.is_possible(actions, paused, step=step, spec=self.spec):
                return self._begin_anew()
            self._buffers.paused[:] = paused
            self.send(actions)
            step = self.recv()
        self._buffers.paused[:] = False
        if not past.is_back(step):
            return self._begin_anew()
        self._history.load(past)
        return step

    def _begin_anew(self) -> EnvStep:
        """Begins all episodes under way again, because these games don't repeat themselves."""
        self._buffers.paused[:] = False
        self._past = None
        self.is_brought_back = False
        return self.reset()

    def send(self, actions: NDArray[np.generic]) -> None:
        if self._is_pending:
            raise RuntimeError("send without recv")
        expected = self._buffers.actions.shape
        if actions.shape != expected:  # numpy would silently repeat a shorter array
            raise ValueError(f"actions of shape {actions.shape}, expected {expected}")
        self._buffers.actions[:] = actions
        self._history.add(actions)
        self._next(is_reset=False)

    def recv(self) -> EnvStep:
        if not self._is_pending:
            raise RuntimeError("recv without send")
        self._is_pending = False
        self._finish()
        step = self._latest().step
        self._history.end(step)
        check_finite(step, self.spec, first_env=self._first_env, has_rewards=self.has_rewards)
        return step

    def episode_seeds(self) -> NDArray[np.int64]:
        return self._latest().seeds.copy()

    def state_dict(self) -> dict[str, NDArray[Any]]:
        latest = self._latest()
        return {"episodes": latest.episodes.copy(), **self._history.state(latest.step)}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        episodes = loaded_episodes(state, self.num_envs)
        self._past = None
        if "lengths" in state:
            self._past = Past.checked(state, self.spec, self.num_envs)
        self._buffers.first_episodes[:] = episodes
        # a state that is taken before the next reset is the same one
        self._latest().episodes[:] = episodes

    def _latest(self) -> StepBuffers:
        """Returns the latest step that was given out; a step under way goes into the next set."""
        return self._buffers.steps[(self._index - self._is_pending) % RING]

    def _next(self, *, is_reset: bool) -> None:
        self._index = (self._index + 1) % RING
        self._is_pending = True
        self._start(self._index, is_reset=is_reset)

    @abstractmethod
    def _start(self, index: int, *, is_reset: bool) -> None:
        """Starts to write set `index`: by a reset, or by a step with the buffers' actions."""

    @abstractmethod
    def _finish(self) -> None:
        """Waits until the set that `_start` began is written."""
