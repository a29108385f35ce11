"""How policies act that learn from a replay: squashed or bounded numbers, greedy choices, and
random ones in between.

A kind of heads (policy/shapes.py) says what the outputs mean:

    choices    logits: a choice is drawn from them                          HASAC
    values     the values of the choices: the best one is taken             HAD3QN
    squashed   means and log-deviations: tanh of a normal number            HASAC
    bounded    one number for each dimension: its tanh, with noise          HADDPG, HATD3, MA...

tanh gives numbers in -1 .. 1, the *units* in which such policies and their critics compute; an
action is that number in the range of its dimension. While a run explores, an agent acts uniformly
at random with probability epsilon, drawn anew for each agent, environment and step.

N agents, E environments, A outputs of a head, D numbers of an action.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Tuple

import numpy as np
from numpy.typing import NDArray

from sde_harl.draws.counters import Draw, Purpose
from sde_harl.policy.inference import _blocks
from sde_harl.policy.inference.arrays import BoolArray, FloatArray
from sde_harl.policy.shapes import BOUNDED, SQUASHED, VALUES

LEAST_LOG_STD = -5.0
MOST_LOG_STD = 2.0
"""Bounds of the log-deviation of a squashed action."""
LARGEST_LOG_DENSITY = 30.0
"""Bound of a log-density that is recorded: near the end of its range an action's has none."""
_HALF_LOG_2PI = np.float32(0.5 * math.log(2 * math.pi))
_LOG_2 = np.float32(math.log(2.0))

# typing.Tuple, since an executor may run Python 3.8, where `tuple` takes no brackets at run time.
Chosen = Tuple[NDArray[Any], FloatArray]
"""Actions (N, E, D) and the log-probability of each of their numbers (N, E, D)."""


class Exploration(NamedTuple):
    """Says how outputs become actions. All of it but `kind` is published with the weights."""

    kind: str
    chances: FloatArray
    """(N, 1, 2): epsilon, and the deviation of the noise of bounded actions, in units."""
    low: FloatArray
    """(N, 1, D) least action; 0 in padding and for choices."""
    high: FloatArray
    """(N, 1, D) largest action."""

    def choose(
        self,
        outputs: FloatArray,
        available: BoolArray,
        draw: Draw | None,
        edges: NDArray[np.int32],
    ) -> Chosen:
        """Returns actions and log-probabilities, greedy ones where `draw` is None.

        outputs (N, E, A or 2 D); available (N, E, A) bool; `edges` of the branches, (D + 1,).
        Log-probabilities are those of numbers in units; 0 where nothing is drawn.
        """
        random = None
        if draw:
            # Of another purpose than the actions': the two must not depend on each other.
            chance = draw._replace(purpose=Purpose.EXPLORING).uniform(outputs.shape[1], 1)
            random = chance < self.chances[..., :1]  # (N, E, 1)
        if self.kind in (SQUASHED, BOUNDED):
            return self._numbers(outputs, available, draw, random)
        return self._choices(outputs, available, draw, random, edges)

    def _choices(
        self,
        outputs: FloatArray,
        available: BoolArray,
        draw: Draw | None,
        random: BoolArray | None,
        edges: NDArray[np.int32],
    ) -> Chosen:
        if draw is None or random is None:
            return choose(outputs, available, None, edges)
        # Equal outputs: every available choice is as likely as any other.
        mixed = np.where(random, np.float32(0.0), outputs)
        drawn = choose(mixed, available, draw, edges)
        if self.kind != VALUES:
            return drawn
        best, certain = choose(outputs, available, None, edges)
        actions = np.where(random, drawn[0], best)
        return actions, np.zeros_like(certain)

    def _numbers(
        self,
        outputs: FloatArray,
        available: BoolArray,
        draw: Draw | None,
        random: BoolArray | None,
    ) -> Chosen:
        size = self.low.shape[-1]
        means = outputs[..., :size]
        log_probs = np.zeros(means.shape, np.float32)
        if draw is None or random is None:
            units = np.tanh(means)
        elif self.kind == SQUASHED:
            units, log_probs = _squashed(means, outputs[..., size:], draw)
        else:
            noise = self.chances[..., 1:] * draw.standard_normal(*means.shape[1:])
            units = np.clip(np.tanh(means) + noise, -1.0, 1.0)
        if random is not None and draw is not None and random.any():
            anywhere = draw._replace(purpose=Purpose.RANDOM_ACTION).uniform(*means.shape[1:])
            units = np.where(random, 2.0 * anywhere - 1.0, units)
            if self.kind == SQUASHED:
                log_probs = np.where(random, -_LOG_2, log_probs)
        half = (self.high - self.low) * np.float32(0.5)
        actions = self.low + half + half * units
        # Rounding may lead past the end of a range.
        actions = np.clip(actions, self.low, self.high).astype(np.float32)
        return actions * available, log_probs * available


def choose(
    outputs: FloatArray, available: BoolArray, draw: Draw | None, edges: NDArray[np.int32]
) -> Chosen:
    """Chooses in each of the branches of `outputs` (N, E, A) between `edges` (D + 1,).

    Sampling is an exponential race: with X_a ~ Exp(1), the largest p_a / X_a is that of action a
    with probability p_a. An unavailable action has p = 0 and can never win.
    """
    race = None
    if draw:
        race = draw.standard_exponential(*outputs.shape[1:])
    shape = (*outputs.shape[:2], len(edges) - 1)
    actions = np.empty(shape, np.int32)
    log_probs = np.empty(shape, np.float32)
    # `available` may be a broadcast view, and blocks.c reads flat memory.
    _blocks.choose(outputs, np.ascontiguousarray(available), race, edges, actions, log_probs)
    return actions, log_probs


def _squashed(means: FloatArray, log_std: FloatArray, draw: Draw) -> Chosen:
    """Returns tanh of normal numbers (N, E, D), and the log-density of each."""
    bounded = np.clip(log_std, LEAST_LOG_STD, MOST_LOG_STD)
    noise = draw.standard_normal(*means.shape[1:])
    numbers = means + np.exp(bounded) * noise
    # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), which doesn't round to log 0.
    slope = 2.0 * (_LOG_2 - numbers - np.logaddexp(np.float32(0.0), -2.0 * numbers))
    log_probs = np.float32(-0.5) * noise * noise - bounded - _HALF_LOG_2PI - slope
    limited = np.clip(log_probs, -LARGEST_LOG_DENSITY, LARGEST_LOG_DENSITY)
    return np.tanh(numbers), limited.astype(np.float32)
