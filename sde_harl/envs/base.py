"""What an environment looks like to the rest of the program: a batch of games that step together.

Symbols: E environments, N agents, O the largest observation, A numbers that describe a choice of action, D numbers that
an action is made of, S state. This module imports numpy alone, so that an executor or a reader of records may use its
types.

An action is D numbers. A discrete one is a choice in each of D branches (one, in most benchmarks); a continuous one
has D dimensions. Agents may differ: `EnvSpec.branches` is the layout that holds them all, A the sum of it, and what an
agent lacks is padding.
"""

from __future__ import annotations

import difflib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sde_harl.errors import UserError


class EnvConfig(Protocol):
    """The part of the config an environment reads."""

    @property
    def name(self) -> str:
        """Benchmark: a key of `sde_harl.envs.registry.ENVS`."""

    @property
    def map(self) -> str:
        """Map or scenario of that benchmark."""

    @property
    def backend(self) -> str:
        """Which implementation plays it; "auto" lets `sde_harl.envs.resolve_backend` choose."""

    @property
    def continuous_actions(self) -> bool:
        """Ask the benchmark for its continuous action spaces."""

    @property
    def workers(self) -> int:
        """Worker processes that step a vector of single games; 0 = none, in this process."""

    @property
    def agent_obsk(self) -> int:
        """mamujoco: how many joints away an agent sees; -1 = the whole robot."""

    @property
    def factory(self) -> str:
        """pettingzoo: "module:function" that makes the environment."""

    @property
    def spec(self) -> str:
        """devices: the file that holds the spec."""

    @property
    def steps(self) -> int:
        """devices: decisions of an episode; 0 = the spec's limit."""


class EnvSpec(NamedTuple):
    """What is the same in every environment of a vector and never changes."""

    name: str  # what results are called, "smax/3s5z"
    agents: tuple[str, ...]
    obs_sizes: tuple[int, ...]  # floats, unpadded, one an agent
    action_sizes: tuple[
        tuple[int, ...], ...
    ]  # an agent's choices in each branch; (dimensions,) if continuous
    state_size: int
    episode_limit: (
        int  # steps, after which an episode is truncated; 0 where the environment doesn't tell
    )
    continuous: bool
    unit_types: tuple[str, ...]  # role hints, "" where unknown
    has_win: bool
    obs_images: tuple[
        tuple[int, ...], ...
    ] = ()  # (H, W, C) of each agent's observation; () where not all are images
    obs_dtype: str = "float32"  # or "uint8", where all are images of bytes
    state_image: tuple[int, ...] = ()  # (H, W, C) of the state; () where it is no image
    state_dtype: str = "float32"
    noop: int = 0  # the choice of every branch that does nothing, where it is available

    @property
    def branches(self) -> tuple[int, ...]:
        """(D,) the most choices that any agent has in each branch; 1 for each dimension if continuous."""
        if self.continuous:
            return (1,) * max(dimensions for (dimensions,) in self.action_sizes)
        return tuple(
            max(column) for column in itertools.zip_longest(*self.action_sizes, fillvalue=1)
        )

    def idle(self, available: NDArray[np.bool_]) -> NDArray[np.generic]:
        """Actions (..., D) that do nothing, or as little as can be: `noop`, or the first choice that is `available`.

        available (..., A); continuous actions are 0.
        """
        if self.continuous:
            return np.zeros((*available.shape[:-1], len(self.branches)), np.float32)
        ends = np.cumsum(self.branches)[:-1]
        branches = np.split(available, ends, -1)
        noops = [min(self.noop, branch.shape[-1] - 1) for branch in branches]
        columns = [
            np.where(each[..., noop], noop, each.argmax(-1)) for each, noop in zip(branches, noops)
        ]
        return np.stack(columns, -1).astype(np.int32)

    def choices(self) -> NDArray[np.bool_]:
        """(N, A) what each agent has of the layout. In a branch that it lacks, choice 0 stands for doing nothing."""
        if self.continuous:
            dimensions = np.array(self.action_sizes)  # (N, 1)
            return np.arange(len(self.branches)) < dimensions
        padded = itertools.zip_longest(
            *self.action_sizes, fillvalue=1
        )  # of every branch, each agent's choices
        return np.concatenate(
            [np.arange(most) < np.array(own)[:, None] for most, own in zip(self.branches, padded)],
            axis=1,
        )


class EnvStep(NamedTuple):
    """One step of E environments.

    An environment whose episode ended starts the next one within the same step: `obs`, `state`, `available_actions` and
    `active` then belong to the new episode, the other fields to the one that ended. Arrays may be read-only; they stay
    valid until the next but one `recv`.
    """

    obs: NDArray[
        Any
    ]  # (E, N, O), zero-padded, of `EnvSpec.obs_dtype`; images flat, their channels last
    state: NDArray[Any]  # (E, S), of `EnvSpec.state_dtype`
    available_actions: NDArray[
        np.bool_
    ]  # (E, N, A), padding is False; `choices` where nothing is ever unavailable
    active: NDArray[np.bool_]  # (E, N), alive when deciding on this obs
    rewards: NDArray[np.float32]  # (E,), the team's
    terminated: NDArray[np.bool_]  # (E,), the game is over
    truncated: NDArray[np.bool_]  # (E,), out of time; never together with terminated
    final_state: NDArray[
        Any
    ]  # (E, S), the last state of the ended episode; `state` where none ended
    final_obs: NDArray[
        Any
    ]  # (E, N, O), the last observations of the ended episode; `obs` where none ended
    won: NDArray[np.int8]  # (E,), -1 unknown or not ended, 0, 1
    returns: NDArray[
        np.float32
    ]  # (E,), undiscounted sum of rewards of the ended episode, 0 where none ended
    lengths: NDArray[np.int32]  # (E,), steps of the ended episode, 0 where none ended


class VectorEnv(ABC):
    """E environments that step together, each on a random stream of its own."""

    spec: EnvSpec
    num_envs: int

    @abstractmethod
    def reset(self) -> EnvStep:
        """Start every random stream from its beginning: the same seed gives the same episodes again. Rewards are 0."""

    @abstractmethod
    def send(self, actions: NDArray[np.generic]) -> None:
        """Step with (E, N, D) actions, int32, or float32 if continuous; in the background where that is possible.

        The array may be overwritten once this returns.
        """

    @abstractmethod
    def recv(self) -> EnvStep:
        """Wait for the step begun by `send`. Raises RuntimeError if none was begun."""

    @abstractmethod
    def episode_seeds(self) -> NDArray[np.int64]:
        """(E,) seeds of the episodes that the latest Step's `obs` belong to.

        The seed of an episode that a Step ends was given before that Step's `recv`.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the environments hold. The vector can't be used afterwards."""


def stream(seed: int, *path: int) -> np.random.SeedSequence:
    """The random stream at `path` (environment index, then perhaps episode) under `seed`.

    It depends on nothing else, so environments draw the same numbers however they are dealt over vectors.
    """
    return np.random.SeedSequence(seed, spawn_key=path)


def unknown(key: str, given: str, valid: Iterable[str]) -> UserError:
    """The error for a value of config key `key` that is none of `valid`; lists those, the most similar first."""
    nearest = sorted(valid, key=lambda name: -difflib.SequenceMatcher(None, name, given).ratio())
    return UserError(f"{key}: unknown value {given!r}; choose one of: {', '.join(nearest)}")
