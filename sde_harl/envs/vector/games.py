"""The interface of benchmarks that play one game at a time, and the vector that plays many of them.

A benchmark implements `Game`: begin an episode, play a step, and write what is seen into arrays.
All the rest is shared and written once, in `GameBatch`: it counts, seeds and resets episodes, and
sums up rewards. A complete benchmark may be as short as this:

    class Guess(Game):
        '''Two agents see a number, 0 or 1, and earn 1 each if they say it.'''

        spec = EnvSpec(
            name="guess/one", agents=("a", "b"), obs_sizes=(1, 1), action_sizes=((2,), (2,)),
            state_size=1, episode_limit=1, continuous=False, unit_types=("", ""), has_win=False,
        )

        def reset(self, seed, out):
            self._number = seed % 2
            out.obs[:] = self._number  # (N, O)
            out.state[:] = self._number  # (S,)

        def step(self, actions, out):
            right = (actions[:, 0] == self._number).sum()
            return Outcome(reward=float(right), terminated=True, truncated=False)

        def close(self):
            pass

    def make_game(env_config):
        return Guess()

`SerialVector` plays games in this process, `workers.WorkerVector` in other processes. Both give the
same arrays, bit for bit.
"""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.envs.base import EnvSpec, EnvStep, stream
from sde_harl.envs.specs import common_spec
from sde_harl.envs.vector.ring import RING, RingVector, VectorBuffers, memory_size

if TYPE_CHECKING:  # a run that nobody watches needs no library that draws
    from sde_harl.drawing.canvas import Colour, Picture


class ObservationBuffers(NamedTuple):
    """The arrays that one game writes its observations into: its own rows of an `EnvStep`.

    When the game first sees them, `obs` and `state` are zero, `available_actions` is
    `EnvSpec.choices()` and `active` is True. The rows of three steps are used in turn and never
    cleared, so a game writes at every call whatever may ever change, and doesn't touch what never
    changes (padding; `active`, if no agent dies).
    """

    obs: NDArray[Any]  # (N, O)
    state: NDArray[Any]  # (S,)
    available_actions: NDArray[np.bool_]  # (N, A)
    active: NDArray[np.bool_]  # (N,)


class Outcome(NamedTuple):
    """Tells what one step of a game led to."""

    reward: float
    """The team's reward."""
    terminated: bool
    """The game is over."""
    truncated: bool
    """Out of time; ignored where `terminated`."""
    won: int = -1
    """1 won, 0 lost, -1 unknown; ignored where the episode goes on."""
    void: bool = False
    """The game failed, so the episode ends here and counts for nothing; see `EnvStep.void`."""


class Game(ABC):
    """One environment. It doesn't reset itself, and counts nothing for the vector."""

    spec: EnvSpec
    seed_bits: ClassVar[int] = 63
    """Seeds are below 2 to this power, at most 63: they must fit a non-negative int64."""
    has_rewards: ClassVar[bool] = True
    """False where nobody knows what a step earns: the reward is NaN."""
    pictures_per_s: ClassVar[float] = 10.0
    """Speed at which its pictures are shown, one for each step."""

    @abstractmethod
    def reset(self, seed: int, out: ObservationBuffers) -> None:
        """Begins the episode of `seed` and writes what is seen into `out`.

        The same seed gives the same episode, whatever this object has played before.
        """

    @abstractmethod
    def step(self, actions: NDArray[np.generic], out: ObservationBuffers) -> Outcome:
        """Plays actions (N, D) and writes what is seen afterwards into `out`.

        It writes when the episode ends, too: these are the final observations.
        """

    def picture(self, colours: Sequence[Colour]) -> Picture | None:
        """Returns the game as it stands; None where it can't be drawn.

        `colours`: of each agent (N,), for games that choose no colours of their own. Nothing but
        `watching` calls it, between steps, so it may take its time. Raises UserError where
        something is missing that draws.
        """
        return None

    def record(self, folder: Path) -> bool:
        """Has the game write recordings of its own into a folder, of each episode from now on.

        Returns False where it makes none. Called before an episode begins.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """Frees what the game holds."""


class GameBatch:
    """Plays several games one after the other, and does the bookkeeping that all benchmarks share.

    `buffers` has one row for each game; `first_env` is the number of the first game in the run.
    """

    def __init__(
        self, games: Sequence[Game], *, buffers: VectorBuffers, seed: int, first_env: int
    ) -> None:
        self._games = games
        self._buffers = buffers
        # made once: making them at every step would cost as much as a small game's step
        self._outs = [_observation_buffers(each.step) for each in buffers.steps]
        self._seed = seed
        self._first_env = first_env
        self._seeds = np.zeros(len(games), np.int64)
        self._clear()

    def reset(self, index: int) -> None:
        """Begins every game's first episode; writes the buffers' step `index`."""
        self._clear()
        for e, out in enumerate(self._outs[index]):
            self._begin(e, out)
        step = self._buffers.steps[index].step
        for array in (step.rewards, step.terminated, step.truncated, step.returns, step.lengths):
            array[:] = 0
        step.void[:] = False
        step.won[:] = -1
        self._keep_final(step)
        self._write_episodes(index)

    def step(self, index: int) -> None:
        """Plays the buffers' actions, begins the next episode where one ends; writes step `index`.

        The order matters. A game's next episode is written over what was seen last in the one that
        ended, so that is copied to `final_state` and `final_obs` before any game is reset. The
        number of the next episode decides its seed, so ended episodes are counted before, too.
        """
        step = self._buffers.steps[index].step
        outs = self._outs[index]
        paused = self._buffers.paused
        for e, game in enumerate(self._games):
            if paused[e]:
                self._stay(e, index)
                continue
            outcome = game.step(self._buffers.actions[e], outs[e])
            step.rewards[e] = outcome.reward
            step.terminated[e] = outcome.terminated or outcome.void
            step.truncated[e] = outcome.truncated
            step.won[e] = outcome.won
            step.void[e] = outcome.void
        np.greater(step.truncated, step.terminated, out=step.truncated)  # truncated and not over
        self._keep_final(step)
        ended = step.terminated | step.truncated
        self._count(step, ended)
        for e in np.flatnonzero(ended).tolist():
            self._begin(e, outs[e])
        self._write_episodes(index)

    def _stay(self, e: int, index: int) -> None:
        """Writes game e's last row again, as nothing has happened in it."""
        step = self._buffers.steps[index].step._asdict()
        last = self._buffers.steps[(index - 1) % RING].step._asdict()
        for name, array in step.items():
            array[e] = last[name][e]

    def _clear(self) -> None:
        count = len(self._games)
        self._episodes = self._buffers.first_episodes.copy()
        self._lengths = np.zeros(count, np.int32)
        self._returns = np.zeros(count)  # float64, so that long episodes lose nothing

    def _begin(self, e: int, out: ObservationBuffers) -> None:
        """Begins game e's next episode."""
        source = stream(self._seed, self._first_env + e, int(self._episodes[e]))
        word = int(source.generate_state(1, np.uint64)[0])
        game = self._games[e]
        seed = word >> 1 & (1 << game.seed_bits) - 1
        self._seeds[e] = seed
        game.reset(seed, out)

    def _keep_final(self, step: EnvStep) -> None:
        step.final_state[:] = step.state
        step.final_obs[:] = step.obs

    def _count(self, step: EnvStep, ended: NDArray[np.bool_]) -> None:
        """Adds a step to the totals of all episodes; reports and clears those that `ended`."""
        self._returns += step.rewards
        self._lengths += ~self._buffers.paused
        step.returns[:] = self._returns * ended
        step.lengths[:] = self._lengths * ended
        step.won[~ended] = -1
        self._returns[ended] = 0
        self._lengths[ended] = 0
        # The seed follows from this number, so that a void episode's is played again.
        self._episodes += ended & ~step.void

    def _write_episodes(self, index: int) -> None:
        self._buffers.steps[index].seeds[:] = self._seeds
        self._buffers.steps[index].episodes[:] = self._episodes


def _observation_buffers(step: EnvStep) -> list[ObservationBuffers]:
    """Returns the rows of each environment."""
    return [
        ObservationBuffers(obs=obs, state=state, available_actions=available, active=active)
        for obs, state, available, active in zip(
            step.obs, step.state, step.available_actions, step.active
        )
    ]


class SerialVector(RingVector):
    """Plays games in this process, one after the other.

    The work is done in `recv`: `send` returns at once, so that a caller can send its messages to
    executors before the games keep this process busy.
    """

    def __init__(self, games: Sequence[Game], *, seed: int, first_env: int) -> None:
        spec = common_spec([game.spec for game in games])
        memory = mmap.mmap(-1, memory_size(spec, len(games)))  # anonymous, hence zero
        super().__init__(spec, len(games), memory, first_env=first_env)
        self.has_rewards = games[0].has_rewards
        self._games = games
        self._batch = GameBatch(games, buffers=self._buffers, seed=seed, first_env=first_env)
        self._is_reset = False

    def _start(self, index: int, *, is_reset: bool) -> None:
        self._is_reset = is_reset

    def _finish(self) -> None:
        if self._is_reset:
            self._batch.reset(self._index)
        else:
            self._batch.step(self._index)

    def close(self) -> None:
        for game in self._games:
            game.close()
