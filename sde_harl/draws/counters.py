"""Random draws that depend on (seed, purpose, environment, agent, step) and on nothing else.

A usual generator has a state: its next number depends on all draws before. These draws come from a
counter-based generator instead (Philox: Salmon et al., SC 2011), whose counter is made of the
draw's purpose and place. So it doesn't matter which process draws them, in which order or for how
many environments at a time: placements agree by construction, and a run that is resumed at a step
draws the numbers that it would have drawn without the interruption.

n agents, E environments, K numbers for each.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.draws import _philox


class Purpose(IntEnum):
    """Names the uses of random numbers. It is part of the key, so no two uses share numbers.

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
    EXPLORING = 8
    """Whether an agent that explores acts at random."""
    RANDOM_ACTION = 9
    """The continuous actions of agents that act at random."""


# A NamedTuple, because it is cheap to make: each decision makes one.
class Draw(NamedTuple):
    """The random numbers of some agents in consecutive environments at one step.

    The methods have numpy's names and meaning, and fill arrays of shape (n, E, K).
    """

    seed: int
    """Seed of the run, 0 to 2^64 - 1."""
    purpose: Purpose
    step: int
    """Vector steps of the environments so far, or whatever counts the draws of this purpose."""
    first_environment: int
    """Index in the run of the first of the E environments."""
    agents: NDArray[np.int32]
    """(n,) indices of the agents in the run."""

    def uniform(self, environments: int, count: int) -> NDArray[np.float32]:
        """Returns numbers between 0 and 1, both excluded: (n, E, K)."""
        return self._filled(_philox.UNIFORM, environments, count)

    def standard_exponential(self, environments: int, count: int) -> NDArray[np.float32]:
        """Returns numbers of density e^-x: (n, E, K)."""
        return self._filled(_philox.EXPONENTIAL, environments, count)

    def standard_normal(self, environments: int, count: int) -> NDArray[np.float32]:
        """Returns numbers from N(0, 1): (n, E, K)."""
        return self._filled(_philox.NORMAL, environments, count)

    def _filled(self, law: int, environments: int, count: int) -> NDArray[np.float32]:
        out = np.empty((len(self.agents), environments, count), np.float32)
        # In C with its own logarithm: numpy's laws may round differently on another processor.
        _philox.fill(
            law, self.seed, self.purpose, self.step, self.first_environment, self.agents, out
        )
        return out


def generator(seed: int, purpose: Purpose, step: int = 0) -> np.random.Generator:
    """Returns numpy's generator for the draws of a step, where they belong to no environment."""
    # Each step has 2^64 blocks of numbers to itself: draws count up the first word of the counter.
    counter = np.array([0, step, 0, 0], np.uint64)
    key = np.array([seed, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def derived_seed(seed: int, purpose: Purpose, step: int = 0) -> int:
    """Returns a seed for a library's own generator: 0 to 2^31 - 1."""
    # scikit-learn takes no more than 32 bits, and torch's seeds are signed.
    return int(generator(seed, purpose, step).integers(2**31))
