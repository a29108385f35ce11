"""Vectors of one environment that can be watched: they draw the game after each step.

A vector begins the next episode within the step that ends one, so the last position of an episode
can't be drawn from outside. A game is therefore drawn where it is stepped. A compiled step is
computed once more, without the new beginning. Vectors that nobody watches know nothing of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sde_harl.drawing.canvas import Colour, Picture
from sde_harl.envs.base import VectorEnv
from sde_harl.envs.vector.games import Game, ObservationBuffers, Outcome, SerialVector


class Artist(Protocol):
    """Draws what a vector of one environment plays."""

    def picture(self) -> Picture | None:
        """Returns what the latest step led to, or the beginning where there was none.

        After the step that ends an episode, that is the ended episode's last position. None where
        the game can't be drawn.
        """


class Watched(NamedTuple):
    """A vector of one environment, and who draws it."""

    vector: VectorEnv
    artist: Artist
    pictures_per_s: float
    """Speed at which the pictures are shown, one for each step."""


class _DrawnGame(Game):
    """A game that is drawn when it begins and after each of its steps."""

    def __init__(self, game: Game, colours: Sequence[Colour]) -> None:
        self.spec = game.spec
        self.seed_bits = game.seed_bits  # type: ignore[misc]  # a constant of the game's class
        self.has_rewards = game.has_rewards  # type: ignore[misc]
        self._game = game
        self._colours = colours
        self._stepped = False
        self._latest: Picture | None = None

    def reset(self, seed: int, out: ObservationBuffers) -> None:
        self._game.reset(seed, out)
        # After a step, this is the episode after the one that is watched.
        if not self._stepped:
            self._latest = self._game.picture(self._colours)

    def step(self, actions: NDArray[np.generic], out: ObservationBuffers) -> Outcome:
        outcome = self._game.step(actions, out)
        self._stepped = True
        self._latest = self._game.picture(self._colours)
        return outcome

    def picture(self, colours: Sequence[Colour] = ()) -> Picture | None:
        return self._latest

    def close(self) -> None:
        self._game.close()


def watched_game(game: Game, colours: Sequence[Colour], *, seed: int, first_env: int) -> Watched:
    """Returns a vector of one game that is played by itself."""
    drawn = _DrawnGame(game, colours)
    return Watched(
        vector=SerialVector([drawn], seed=seed, first_env=first_env),
        artist=drawn,
        pictures_per_s=game.pictures_per_s,
    )


class _CompiledArtist:
    """Draws the game of a compiled vector."""

    def __init__(self, vector: Any, colours: Sequence[Colour]) -> None:
        self._vector = vector
        self._colours = colours

    def picture(self) -> Picture | None:
        picture: Picture | None = self._vector.rules.picture(self._vector.played(), self._colours)
        return picture


def watched_rules(vector: Any, colours: Sequence[Colour]) -> Watched:
    """Makes a `CompiledVector` of one environment one that can be watched.

    Its class isn't named here, because its module imports JAX.
    """
    vector.watch()
    return Watched(
        vector=vector,
        artist=_CompiledArtist(vector, colours),
        pictures_per_s=vector.rules.pictures_per_s,
    )
