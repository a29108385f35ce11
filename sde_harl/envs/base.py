"""The environment interface: how the rest of the program sees the games that it plays.

The program plays E games at once, as one `VectorEnv`:

    env = make(config.env, num_envs=8, seed=1)
    step = env.reset()
    while True:
        actions = choose(step.obs, step.available_actions)  # (E, N, D)
        env.send(actions)
        ...                                                  # time to do something else
        step = env.recv()

`EnvSpec` tells the sizes, which never change. `EnvStep` holds the arrays of one step of all games.

Symbols: E environments, N agents, O the largest observation, A numbers that describe a choice of
action, D numbers that an action consists of, S state.

An action is D numbers. A discrete action is a choice in each of D branches (one branch, in most
benchmarks); a continuous action has D dimensions. Agents may differ: `EnvSpec.branches` is the
layout that has room for all of them, A is its sum, and what an agent lacks is padding. Two agents
with choices (3,) and (2, 4) share the layout (3, 4), so D = 2 and A = 7:

    agent 0 may choose  [x x x | x . . .]      in a branch that an agent lacks,
    agent 1 may choose  [x x . | x x x x]      choice 0 means to do nothing

This module imports numpy alone, so that readers of records may use its types.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_EPISODES = 2**31 - 1
"""The largest number of an episode: the compiled games count in 32 bits."""


class EnvSpec(NamedTuple):
    """Describes all environments of a vector: what is the same in each and never changes."""

    name: str
    """Name that results are filed under, "smax/3s5z"."""
    agents: tuple[str, ...]
    obs_sizes: tuple[int, ...]
    """Numbers in each agent's observation, without padding."""
    action_sizes: tuple[tuple[int, ...], ...]
    """Each agent's choices in each of its branches; (dimensions,) if continuous."""
    state_size: int
    episode_limit: int
    """Steps after which an episode is truncated; 0 where the environment doesn't tell."""
    continuous: bool
    unit_types: tuple[str, ...]
    """Each agent's kind, a hint for roles; "" where unknown."""
    has_win: bool
    """Episodes can be won."""
    obs_images: tuple[tuple[int, ...], ...] = ()
    """(H, W, C) of each agent's observation; () where not all are images."""
    obs_dtype: str = "float32"
    """"float32", or "uint8" where all observations are images of bytes."""
    state_image: tuple[int, ...] = ()
    """(H, W, C) of the state; () where it is no image."""
    state_dtype: str = "float32"
    noop: int = 0
    """The choice, in every branch, that does nothing where it is available."""
    action_bounds: tuple[tuple[tuple[float, float], ...], ...] = ()
    """Lowest and highest number of each dimension of each agent's action; () where actions are
    choices, or where a dimension has no bound."""

    @property
    def branches(self) -> tuple[int, ...]:
        """(D,) the most choices of any agent in each branch; 1 for each dimension if continuous."""
        if self.continuous:
            return (1,) * max(dimensions for (dimensions,) in self.action_sizes)
        return tuple(
            max(column) for column in itertools.zip_longest(*self.action_sizes, fillvalue=1)
        )

    @property
    def action_dtype(self) -> str:
        """Returns the type of the numbers that an action consists of."""
        if self.continuous:
            return "float32"
        return "int32"

    def bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns the lowest and highest actions, (N, D) each; 0 in padding.

        Only for continuous actions whose `action_bounds` are known.
        """
        low = np.zeros((len(self.agents), len(self.branches)), np.float32)
        high = np.zeros_like(low)
        for i, own in enumerate(self.action_bounds):
            low[i, : len(own)] = [each[0] for each in own]
            high[i, : len(own)] = [each[1] for each in own]
        return low, high

    def idle(self, available: NDArray[np.bool_]) -> NDArray[np.generic]:
        """Returns actions (..., D) that do nothing, or as little as possible.

        In each branch of available (..., A) the choice is `noop` if that is available, else the
        first one that is. Continuous actions are 0.
        """
        if self.continuous:
            return np.zeros((*available.shape[:-1], len(self.branches)), np.float32)
        columns: list[NDArray[np.int64]] = []
        for branch in np.split(available, np.cumsum(self.branches)[:-1], -1):
            # A short branch may not reach up to that choice; then its last one is tried.
            noop = min(self.noop, branch.shape[-1] - 1)
            columns.append(np.where(branch[..., noop], noop, branch.argmax(-1)))
        return np.stack(columns, -1).astype(np.int32)

    def choices(self) -> NDArray[np.bool_]:
        """Returns (N, A): which parts of the common layout each agent has.

        In a branch that an agent lacks, choice 0 is True and means to do nothing.
        """
        if self.continuous:
            dimensions = np.array(self.action_sizes)  # (N, 1)
            return np.arange(len(self.branches)) < dimensions
        own_sizes = itertools.zip_longest(*self.action_sizes, fillvalue=1)  # by branch: (N,) each
        columns = [
            np.arange(most) < np.array(sizes)[:, None]
            for most, sizes in zip(self.branches, own_sizes)
        ]
        return np.concatenate(columns, axis=1)


class EnvStep(NamedTuple):
    """Holds one step of E environments.

    An environment whose episode ends begins the next episode within the same step. Then `obs`,
    `state`, `available_actions` and `active` belong to the new episode, all other fields to the one
    that ended. An example, where the second action ends an episode of return 3:

        call            obs of        rewards  terminated  returns  lengths
        reset()         episode 0           0       False        0        0
        send, recv()    episode 0           1       False        0        0
        send, recv()    episode 1           2        True        3        2
        send, recv()    episode 1           1       False        0        0

    The arrays belong to the vector and may be read-only. They stay as they are until the next
    `recv` but one: a caller may hold the step before beside the newest, and copies what it keeps
    for longer.
    """

    obs: NDArray[Any]
    """(E, N, O) of `EnvSpec.obs_dtype`, padded with zeros; images lie flat, channels last."""
    state: NDArray[Any]
    """(E, S) of `EnvSpec.state_dtype`."""
    available_actions: NDArray[np.bool_]
    """(E, N, A), padding is False; `EnvSpec.choices()` where nothing is ever unavailable."""
    active: NDArray[np.bool_]
    """(E, N), the agent is alive when it decides on this obs."""
    rewards: NDArray[np.float32]
    """(E,), the team's reward."""
    terminated: NDArray[np.bool_]
    """(E,), the game is over."""
    truncated: NDArray[np.bool_]
    """(E,), out of time; never True together with `terminated`."""
    final_state: NDArray[Any]
    """(E, S), the last state of the episode that ended; `state` where none ended."""
    final_obs: NDArray[Any]
    """(E, N, O), the last observations of the episode that ended; `obs` where none ended."""
    won: NDArray[np.int8]
    """(E,), 1 won, 0 lost, -1 unknown or not ended."""
    returns: NDArray[np.float32]
    """(E,), undiscounted sum of rewards of the episode that ended, 0 where none ended."""
    lengths: NDArray[np.int32]
    """(E,), steps of the episode that ended, 0 where none ended."""
    void: NDArray[np.bool_]
    """(E,), the episode that ended is void: its game failed. It is `terminated` as well, but all
    that was seen and earned in it counts for nothing, and its seed is played again."""


class VectorEnv(ABC):
    """Steps E environments together, each on a random stream of its own.

    The seed of an episode follows from (seed of the run, number of the environment in the run,
    number of the episode in that environment) and from nothing else: not from the other
    environments, nor from how they are dealt over vectors, slots or processes.
    """

    spec: EnvSpec
    num_envs: int
    is_brought_back = True
    """False where a reset could not bring interrupted episodes back: they began anew."""

    @abstractmethod
    def reset(self) -> EnvStep:
        """Begins every environment's first episode and returns what is seen; rewards are 0.

        The first episode is number 0, or the one that `load_state_dict` set. A second reset gives
        the same episodes again.
        """

    @abstractmethod
    def send(self, actions: NDArray[np.generic]) -> None:
        """Starts a step with actions (E, N, D): int32, or float32 if continuous.

        The step runs in the background where that is possible. The array may be overwritten as
        soon as this returns.
        """

    @abstractmethod
    def recv(self) -> EnvStep:
        """Waits for the step that `send` started. Raises RuntimeError if there was no `send`."""

    @abstractmethod
    def episode_seeds(self) -> NDArray[np.int64]:
        """Returns (E,) seeds of the episodes that the latest step's `obs` belong to.

        Where a step ends an episode, the seed of that episode is what this returned before the
        step's `recv`.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Returns "episodes" (E,): how many episodes of each environment have ended.

        Once steps have been played there is also what has been played of the episodes under way
        (`vector.history`): by it they are brought back.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Makes `reset` begin with the episodes that a `state_dict` was taken in.

        Where the state tells what was played of them, `reset` brings them back to that step; then
        `is_brought_back` says whether these games repeat themselves. Raises ValueError if the state
        is of other environments.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees what the environments hold. The vector can't be used afterwards."""


def loaded_episodes(state: Mapping[str, NDArray[Any]], num_envs: int) -> NDArray[np.int64]:
    """Returns the (E,) counters of a `VectorEnv.state_dict`. Raises ValueError if they misfit."""
    episodes = np.asarray(state["episodes"])
    if episodes.shape != (num_envs,) or episodes.dtype != np.int64:
        got = f"{episodes.dtype} of shape {episodes.shape}"
        raise ValueError(f"episodes: expected int64 of shape ({num_envs},), got {got}")
    if not ((episodes >= 0) & (episodes <= MOST_EPISODES)).all():
        raise ValueError(f"episodes: expected 0 to {MOST_EPISODES}, got {episodes.tolist()}")
    return episodes


def stream(seed: int, *path: int) -> np.random.SeedSequence:
    """Returns the random stream at `path` under `seed`.

    `stream(seed, 3)` is that of environment 3, `stream(seed, 3, 0)` that of its first episode. It
    depends on these numbers alone, so environments draw the same however they are dealt over
    vectors.
    """
    return np.random.SeedSequence(seed, spawn_key=path)
