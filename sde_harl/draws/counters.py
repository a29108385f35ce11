"""Random draws that depend on (seed, purpose, environment, agent, step) and on nothing else.

A generator that is drawn from again and again has a state: what it gives depends on who drew before. These draws come
from a counter-based generator instead (Philox: Salmon et al., SC 2011), whose counter is made of what the draw is for.
So it doesn't matter which process draws them, in which order or for how many environments at a time: placements agree
by construction, and a run that is resumed at a step draws what it would have drawn.

n agents, E environments, K numbers for each.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.draws import _philox


class Purpose(IntEnum):
    """What a draw is for. Part of the generator's key, so that no two purposes share numbers.

    A new purpose takes a new number: changing one changes every run.
    """

    ACTING = 1
    """Sampling actions while training."""
    INITIALISATION = 2
    """The first weights."""
    LEARNING = 3
    """Everything drawn in one update: orders of groups and rows, rows and noise of the rate."""
    DISTILLATION = 4
    """Rows that fallback heads learn from."""
    RANDOM_PLAY = 5
    """Actions of the random play that role groups are learnt from."""
    EMBEDDING = 6
    """The identity embedding and the clusters that role groups are learnt by."""
    LINK = 7
    """Delays and losses of an emulated link."""


class Draw(NamedTuple):
    """The random numbers of some agents in consecutive environments at one step.

    The methods have numpy's names and meaning, and fill arrays of shape (n, E, K).
    """

    seed: int
    """Of the run, 0 to 2^64 - 1."""
    purpose: Purpose
    step: int
    """Vector steps of the environments so far, or whatever counts the draws of this purpose."""
    first_environment: int
    """Index in the run of the first of the E environments."""
    agents: NDArray[np.int32]
    """(n,) indices of the agents in the run."""

    def uniform(self, environments: int, count: int) -> NDArray[np.float32]:
        """Numbers between 0 and 1, both excluded: (n, E, K)."""
        return self._filled(_philox.UNIFORM, environments, count)

    def standard_exponential(self, environments: int, count: int) -> NDArray[np.float32]:
        """Numbers of density e^-x: (n, E, K)."""
        return self._filled(_philox.EXPONENTIAL, environments, count)

    def standard_normal(self, environments: int, count: int) -> NDArray[np.float32]:
        """Numbers from N(0, 1): (n, E, K)."""
        return self._filled(_philox.NORMAL, environments, count)

    def _filled(self, law: int, environments: int, count: int) -> NDArray[np.float32]:
        out = np.empty((len(self.agents), environments, count), np.float32)
        _philox.fill(
            law, self.seed, self.purpose, self.step, self.first_environment, self.agents, out
        )
        return out


def generator(seed: int, purpose: Purpose, step: int = 0) -> np.random.Generator:
    """A generator of numpy's for draws that belong to a step, but to no environment and no agent."""
    counter = np.array([0, step, 0, 0], np.uint64)
    key = np.array([seed, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def derived_seed(seed: int, purpose: Purpose, step: int = 0) -> int:
    """A seed for a library's own generator (torch's, scikit-learn's): 0 to 2^31 - 1."""
    return int(generator(seed, purpose, step).integers(2**31))
