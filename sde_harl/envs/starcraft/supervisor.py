"""Keeps one client's game alive: starts it, notices that it is dead or hangs, and replaces it.

The clients hide a dead game: they start another by themselves and report the end of an episode
that was lost. Here they may not: their `full_restart` raises, and the episode is void.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from sde_harl.config.entry_points import one_line
from sde_harl.envs.starcraft import process
from sde_harl.errors import UserError

MAX_FAILURES = 5
"""Failures in a row, without an episode that was played to its end, that end the run."""
BACK_OFF_S = 1.0
"""Waited after the first failure, and twice as long after each further one in a row."""
RECYCLE_BYTES = 3 << 30
"""Memory of a game that is replaced when its episode is over: games grow as they play."""

log = logging.getLogger(__name__)


class GameLostError(Exception):
    """The game died, hung or answered with nonsense."""


class Reply(NamedTuple):
    """The client's answer to one step."""

    reward: float
    over: bool
    truncated: bool
    won: bool


class Supervisor:
    """Plays episodes on one client, on as many games one after the other as it takes."""

    def __init__(self, client: Any) -> None:
        self.client = client
        client.full_restart = self._refuse_restart
        self.replays: Path | None = None
        """Folder for the game's replay of each whole episode."""
        self._is_playing = False
        self._failures = 0
        self._seed = 0

    def begin(self, seed: int, configurations: Iterator[tuple[Any, ...]]) -> None:
        """Begins an episode. Raises UserError if no game can be started.

        A game that has to be started gets `seed`. The client is given the first of the
        `configurations`, and the next where the game can't place the units of one.
        """
        self._finish_episode()
        self._seed = seed
        configuration = next(configurations)
        while True:
            try:
                self._reset(seed, configuration)
            except Exception as error:
                # Whatever it was, a new game is the remedy; `_fail` ends the run if it isn't.
                self._fail(error)
                if type(error).__name__ == "CannotResetException":  # smacv2's, of no module's here
                    configuration = next(configurations)
            else:
                self._is_playing = True
                return

    def step(self, actions: list[int]) -> Reply:
        """Plays one step. Raises GameLostError if the game failed: the episode is void."""
        self.client._sc2_proc.socket.allow(process.ANSWER_TIMEOUT_S)
        try:
            reward, over, info = self.client.step(actions)
            if not info:
                raise GameLostError("the client reported nothing")
        except AssertionError:
            raise  # an action that is not available: a defect of ours
        except Exception as error:
            self._is_playing = False
            self._fail(error)
            raise GameLostError(str(error)) from error
        if over:
            self._end_episode()
        return Reply(
            reward=float(reward),
            over=bool(over),
            truncated=bool(info.get("episode_limit", False)),
            won=bool(info["battle_won"]),
        )

    def close(self) -> None:
        """Ends the game."""
        if self.client._sc2_proc:
            self.client._sc2_proc.kill()
            self.client._sc2_proc = None

    def _reset(self, seed: int, configuration: tuple[Any, ...]) -> None:
        client = self.client
        if client._sc2_proc:
            client._sc2_proc.socket.allow(process.ANSWER_TIMEOUT_S)
        else:
            client._seed = seed
            client._episode_count = 0  # by which the client knows that it has to start a game
        client.reset(*configuration)
        # The clients add up what the enemies are worth while these appear: too much if they don't
        # appear at once or if the game is a second one, and smacv2 never again for new teams.
        units = sum(enemy.health_max + enemy.shield_max for enemy in client.enemies.values())
        deaths = client.n_enemies * client.reward_death_value
        client.max_reward = units + deaths + client.reward_win

    def _finish_episode(self) -> None:
        """Plays an episode that is under way to its end, for nobody.

        The clients' games are corrupted by a reset in mid-episode.
        """
        while self._is_playing:
            idle = [available.index(1) for available in self.client.get_avail_actions()]
            try:
                self.step(idle)
            except GameLostError:
                return

    def _end_episode(self) -> None:
        self._is_playing = False
        self._failures = 0
        is_fit = _resident_bytes(self.client._sc2_proc.pid) <= RECYCLE_BYTES
        if self.replays and not self._save_replay(self.replays):
            is_fit = False
        if not is_fit:
            self.close()

    def _save_replay(self, folder: Path) -> bool:
        """Writes what the game has played since it was started, and beside it the game's version.

        A replay is shown by the version that has played it, and by no other. Returns False where
        the game gives none.
        """
        client = self.client
        name = f"{client.map_name}-seed-{self._seed}"
        controller = client._sc2_proc.controller
        try:
            replay = controller.save_replay()
            version = controller.ping().game_version
        except Exception as error:
            log.warning("no replay of %s: %s", name, one_line(error))
            return False
        (folder / f"{name}.SC2Replay").write_bytes(replay)
        (folder / f"{name}.version.txt").write_text(f"StarCraft II {version}\n")
        return True

    def _fail(self, error: Exception) -> None:
        """Ends the game and waits before the next. Raises UserError after too many failures."""
        self.close()
        self._failures += 1
        reason = f"{type(error).__name__}: {one_line(error)}"
        if self._failures == MAX_FAILURES:
            raise UserError(f"StarCraft II failed {MAX_FAILURES} times in a row: {reason}")
        log.warning("StarCraft II failed and is started again: %s", reason)
        time.sleep(BACK_OFF_S * 2 ** (self._failures - 1))

    def _refuse_restart(self) -> NoReturn:
        # The clients call this while they handle the error that tells why.
        raise GameLostError(str(sys.exc_info()[1] or "the game doesn't answer"))


def _resident_bytes(pid: int | None) -> int:
    """Returns the resident memory of a process, 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
