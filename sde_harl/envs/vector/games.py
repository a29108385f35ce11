"""Many single games driven as one vector: what every benchmark of one game at a time shares.

A `Game` is one environment. `Games` steps several of them and does the bookkeeping (episodes, seeds, returns, resets);
it writes into a `Block`, the arrays of one Step, which may lie in memory that processes share. `SerialVector` drives
its games in this process, `workers.WorkerVector` in others; both hand out the same arrays, bit for bit.
"""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sde_harl.envs.base import EnvSpec, EnvStep, VectorEnv, stream

BLOCKS = 3
"""Steps kept: the two that a caller may still read, and the one being written."""
ALIGNMENT = 64
"""Bytes, a cache line."""


class GameView(NamedTuple):
    """Where a game writes what is seen of it: one environment's rows of a Step.

    At first `obs` and `state` are zero, `available_actions` is `EnvSpec.choices()` and `active` is True. Rows are used
    again, so a game writes on every call all that ever changes, and leaves alone what never does (padding).
    """

    obs: NDArray[Any]  # (N, O)
    state: NDArray[Any]  # (S,)
    available_actions: NDArray[np.bool_]  # (N, A)
    active: NDArray[np.bool_]  # (N,)


class Outcome(NamedTuple):
    """What one step of a game led to."""

    reward: float
    """The team's."""
    terminated: bool
    truncated: bool
    """Out of time; taken for False where `terminated`."""
    won: int = -1
    """-1 unknown, 0, 1; counts only where the episode ends."""


class Game(ABC):
    """One environment. It neither resets itself nor counts anything."""

    spec: EnvSpec

    @abstractmethod
    def reset(self, seed: int, view: GameView) -> None:
        """Begin the episode of `seed`, 0 to 2^63 - 1, and write what is seen."""

    @abstractmethod
    def step(self, actions: NDArray[np.generic], view: GameView) -> Outcome:
        """Play (N, D) actions and write what is seen afterwards, at an episode's end too."""

    @abstractmethod
    def close(self) -> None:
        """Free what the game holds."""


class Block(NamedTuple):
    """The arrays of one Step of E environments, and the seeds of the episodes it shows."""

    step: EnvStep
    seeds: NDArray[np.int64]  # (E,)

    def rows(self, rows: slice) -> Block:
        """The same memory, some of the environments."""
        step: list[Any] = [array[rows] for array in self.step]
        return Block(EnvStep(*step), self.seeds[rows])


class Memory(NamedTuple):
    """All that a vector reads and writes, laid out in one buffer."""

    actions: NDArray[np.generic]  # (E, N, D)
    blocks: tuple[Block, ...]

    def rows(self, rows: slice) -> Memory:
        """The same memory, some of the environments."""
        return Memory(self.actions[rows], tuple(block.rows(rows) for block in self.blocks))


class _Field(NamedTuple):
    shape: tuple[int, ...]
    dtype: DTypeLike

    def size(self) -> int:
        """Bytes, rounded up so that the next field is aligned."""
        size = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        return -(-size // ALIGNMENT) * ALIGNMENT


def _fields(spec: EnvSpec, count: int) -> list[_Field]:
    """Of the actions; then of each block, of a Step's fields in their order and of the seeds."""
    agents, choices = len(spec.agents), sum(spec.branches)
    actions = _Field(
        (count, agents, len(spec.branches)), np.float32 if spec.continuous else np.int32
    )
    obs = _Field((count, agents, max(spec.obs_sizes)), spec.obs_dtype)
    state = _Field((count, spec.state_size), spec.state_dtype)
    available, active = (
        _Field((count, agents, choices), np.bool_),
        _Field((count, agents), np.bool_),
    )
    number, flag, won = (
        _Field((count,), np.float32),
        _Field((count,), np.bool_),
        _Field((count,), np.int8),
    )
    lengths, seeds = _Field((count,), np.int32), _Field((count,), np.int64)
    step = [obs, state, available, active, number, flag, flag, state, obs, won, number, lengths]
    return [actions, *[*step, seeds] * BLOCKS]


def memory_size(spec: EnvSpec, count: int) -> int:
    """Bytes that `lay_out` needs for `count` environments."""
    return sum(field.size() for field in _fields(spec, count))


def lay_out(buffer: mmap.mmap, spec: EnvSpec, count: int) -> Memory:
    """Arrays for `count` environments over `buffer`, whose content stays as it is."""
    arrays: list[Any] = []
    offset = 0
    for field in _fields(spec, count):
        flat = np.frombuffer(buffer, field.dtype, int(np.prod(field.shape)), offset)
        arrays.append(flat.reshape(field.shape))
        offset += field.size()
    width = len(EnvStep._fields) + 1
    parts = [arrays[first : first + width] for first in range(1, len(arrays), width)]
    blocks = [Block(EnvStep(*part[:-1]), part[-1]) for part in parts]
    return Memory(arrays[0], tuple(blocks))


class Games:
    """Single games stepped one after the other, environments `first_env` and on of the run with `seed`."""

    def __init__(self, games: Sequence[Game], seed: int, first_env: int) -> None:
        self._games, self._seed, self._first_env = games, seed, first_env
        self._seeds = np.zeros(len(games), np.int64)
        self._start()

    def _start(self) -> None:
        count = len(self._games)
        self._episodes, self._lengths = np.zeros(count, np.int64), np.zeros(count, np.int32)
        self._returns = np.zeros(count)  # float64, so that long episodes lose nothing

    def reset(self, block: Block) -> None:
        """Begin every environment's first episode."""
        self._start()
        for e, view in enumerate(_views(block.step)):
            self._begin(e, view)
        step = block.step
        for array in (step.rewards, step.terminated, step.truncated, step.returns, step.lengths):
            array[:] = 0
        step.won[:] = -1
        step.final_state[:], step.final_obs[:] = step.state, step.obs
        block.seeds[:] = self._seeds

    def step(self, actions: NDArray[np.generic], block: Block) -> None:
        """Play (E, N, D) actions; an environment whose episode ends begins the next one."""
        step = block.step
        views = list(_views(step))
        for e, (game, view) in enumerate(zip(self._games, views)):
            step.rewards[e], step.terminated[e], step.truncated[e], step.won[e] = game.step(
                actions[e], view
            )
        np.greater(step.truncated, step.terminated, out=step.truncated)
        step.final_state[:], step.final_obs[:] = step.state, step.obs
        ended = step.terminated | step.truncated
        self._count(step, ended)
        for e in np.flatnonzero(ended):
            self._begin(int(e), views[e])
        block.seeds[:] = self._seeds

    def _count(self, step: EnvStep, ended: NDArray[np.bool_]) -> None:
        self._returns += step.rewards
        self._lengths += 1
        step.returns[:], step.lengths[:] = self._returns * ended, self._lengths * ended
        step.won[~ended] = -1
        self._returns[ended], self._lengths[ended] = 0, 0
        self._episodes += ended

    def _begin(self, e: int, view: GameView) -> None:
        words = stream(self._seed, self._first_env + e, int(self._episodes[e])).generate_state(
            1, np.uint64
        )
        self._seeds[e] = int(words[0]) >> 1  # fits a non-negative int64
        self._games[e].reset(int(self._seeds[e]), view)

    def close(self) -> None:
        for game in self._games:
            game.close()


def _views(step: EnvStep) -> Iterator[GameView]:
    """One environment after the other."""
    return map(GameView, step.obs, step.state, step.available_actions, step.active)


class RingVector(VectorEnv):
    """Hands out the blocks of a memory in turn, so that a Step stays as it is until the next but one `recv`."""

    def __init__(self, spec: EnvSpec, num_envs: int, buffer: mmap.mmap) -> None:
        self.spec, self.num_envs = spec, num_envs
        self._memory = lay_out(buffer, spec, num_envs)
        for block in self._memory.blocks:
            block.step.available_actions[:], block.step.active[:] = spec.choices(), True
        self._slot = 0
        self._pending = self._resetting = False

    def reset(self) -> EnvStep:
        if self._pending:
            self.recv()
        self._go(resetting=True)
        return self.recv()

    def send(self, actions: NDArray[np.generic]) -> None:
        if self._pending:
            raise RuntimeError("send without recv")
        if actions.shape != self._memory.actions.shape:  # numpy would repeat a shorter one
            raise ValueError(
                f"actions of shape {actions.shape}, expected {self._memory.actions.shape}"
            )
        self._memory.actions[:] = actions
        self._go(resetting=False)

    def recv(self) -> EnvStep:
        if not self._pending:
            raise RuntimeError("recv without send")
        self._pending = False
        self._finish()
        return self._memory.blocks[self._slot].step

    def episode_seeds(self) -> NDArray[np.int64]:
        # a step that is under way is written into a slot that nobody has been given yet
        return self._memory.blocks[(self._slot - self._pending) % BLOCKS].seeds.copy()

    def _go(self, resetting: bool) -> None:
        self._slot = (self._slot + 1) % BLOCKS
        self._pending, self._resetting = True, resetting
        self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Set out on block `_slot`: a reset if `_resetting`, else a step with the memory's actions."""

    @abstractmethod
    def _finish(self) -> None:
        """Return when the block is written."""


class SerialVector(RingVector):
    """Games in this process. They are stepped in `recv`, so that `send` returns at once."""

    def __init__(self, games: Sequence[Game], seed: int, first_env: int) -> None:
        spec = games[0].spec
        super().__init__(spec, len(games), mmap.mmap(-1, memory_size(spec, len(games))))
        self._games = Games(games, seed, first_env)

    def _begin(self) -> None:
        """Nothing: the work is done in `_finish`."""

    def _finish(self) -> None:
        block = self._memory.blocks[self._slot]
        if self._resetting:
            self._games.reset(block)
        else:
            self._games.step(self._memory.actions, block)

    def close(self) -> None:
        self._games.close()
