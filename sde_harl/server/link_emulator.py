"""A radio link between devices and server, emulated on its latents: for training under age and loss in one process.

It is what the program's own link would do over such a radio, in MPI over TCP: nothing is lost for good, but a lost
message comes with its retransmission, and those behind it wait for it, for TCP keeps the order. It is sent again when
the next message is acknowledged (RACK, RFC 8985; Linux's default), or when the timer has run out. Every environment is
a deployment of its own: it has its own links, and its own clock, which goes on while the server waits for latents and
stands still otherwise, as it does where rank 0 steps the environments.

N agents, E environments of one slot, Z latent, K messages that may still be used.
"""

from __future__ import annotations

import numpy as np

from sde_harl.config.schema import LinkProfile
from sde_harl.draws.counters import Draw, Purpose
from sde_harl.server.decision_log import NO_LATENT, ReceivedLatents

RETRY_MS = 200.0
"""Linux's shortest retransmission timer (TCP_RTO_MIN); it doubles with every further loss."""


class EmulatedLink:
    """The links of one slot."""

    def __init__(
        self,
        profile: LinkProfile,
        deadline_ms: float,
        max_age: int,
        sizes: tuple[int, int, int],
        *,
        seed: int,
        first_environment: int,
    ) -> None:
        """`sizes`: N, E, Z."""
        agents, rows, _ = sizes
        self._profile, self._deadline_ms = profile, deadline_ms
        self._seed, self._first_environment = seed, first_environment
        self._agents = np.arange(agents, dtype=np.int32)
        self._now = np.zeros(rows)  # ms
        self._last = np.zeros(
            (agents, rows)
        )  # when the last message comes, before which no other can
        self._lost = np.zeros((agents, rows), np.bool_)  # whether a message waits for its timer
        kept = max_age + 1
        self._values = np.zeros((kept, *sizes), np.float32)
        self._comes = np.full((kept, agents, rows), np.inf)
        self._numbers = np.full(kept, -1)

    def pass_on(self, latents: ReceivedLatents, number: int, began: np.ndarray) -> ReceivedLatents:
        """What is there by the deadline of decision `number` where the devices send `latents`.

        `began` (E,): the decision that each environment's episode began with; nothing before it may be used.
        """
        kept = len(self._numbers)
        radio, timer = self._draw(number)
        self._send_again(radio, timer == 0.0)
        comes = self._last = np.maximum(self._last, self._now + radio + timer)
        at = number % kept
        self._values[at], self._numbers[at] = latents.values, number
        self._comes[at] = (
            comes if latents.ages is None else np.where(latents.ages == 0, comes, np.inf)
        )
        here = self._comes <= self._now + self._deadline_ms  # (K, N, E)
        here &= (self._numbers[:, None] >= began)[:, None]
        ages = np.where(here, (number - self._numbers)[:, None, None], kept).min(0)  # (N, E)
        agents, rows = np.indices(ages.shape, sparse=True)
        known = ages < kept
        values = np.where(
            known[..., None], self._values[(number - ages) % kept, agents, rows], np.float32(0.0)
        )
        waited = np.where((ages == 0).all(0), (comes - self._now).max(0), self._deadline_ms)
        self._now += waited
        return ReceivedLatents(
            values, np.where(known, ages, NO_LATENT).astype(np.int32) if ages.any() else None
        )

    def _send_again(self, radio: np.ndarray, arrives: np.ndarray) -> None:
        """What was lost before comes three ways after a new message that `arrives`: there, acknowledged, and again."""
        again = np.where(self._lost & arrives, self._now + 3.0 * radio, np.inf)
        self._last = np.minimum(self._last, again)
        self._comes = np.where(np.isinf(self._comes), np.inf, np.minimum(self._comes, again))
        self._lost = ~arrives

    def _draw(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(N, E) ms on the way, and of the retransmission's timer (0: not lost)."""
        profile, shape = self._profile, self._last.shape
        draw = Draw(self._seed, Purpose.LINK, number, self._first_environment, self._agents)
        jitter, lost = np.moveaxis(draw.uniform(shape[1], 2).astype(np.float64), -1, 0)
        radio = profile.delay_ms + profile.jitter_ms * (2.0 * jitter - 1.0)
        losses = np.zeros(shape)
        if profile.loss:  # the number of losses in a row is geometric: P(k or more) = loss^k
            losses = np.floor(np.log(lost) / np.log(profile.loss))
        return np.maximum(radio, 0.0), RETRY_MS * (2.0**losses - 1.0)
