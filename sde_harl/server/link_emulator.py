"""A radio link between devices and server, emulated on the latents that cross it.

It lets a policy be trained for late and lost latents in one process.

It does what the program's own link would do over such a radio, in MPI over TCP: nothing is lost for
good, but a lost message comes with its retransmission, and the messages behind it wait for it,
because TCP keeps the order. A message is sent again when the next one is acknowledged (RACK, RFC
8985; Linux's default), or when the timer has run out.

Every environment is a deployment of its own: it has its own links and its own clock. The clock goes
on while the server waits for latents and stands still otherwise, as it does where rank 0 steps the
environments.

N agents, E environments of one slot, Z latent, K messages that may still be used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sde_harl.config.schema import LinkProfile
from sde_harl.draws.counters import Draw, Purpose
from sde_harl.protocol.actions import NO_LATENT, ReceivedLatents
from sde_harl.protocol.session import SessionSpec
from sde_harl.server.settings import PoolSettings

RETRY_MS = 200.0
"""Linux's shortest retransmission timer (TCP_RTO_MIN); it doubles with every further loss."""
# A lost message comes three ways after the next one was sent: the next one's way there, its
# acknowledgement's way back, and its own way again.
WAYS_AGAIN = 3.0


class EmulatedLink:
    """The links of one slot."""

    def __init__(
        self,
        profile: LinkProfile,
        *,
        deadline_ms: float,
        max_age: int,
        sizes: tuple[int, int, int],
        seed: int,
        first_environment: int,
    ) -> None:
        """Makes links that nothing has crossed.

        `sizes`: N, E, Z. `max_age` as in `PoolSettings`. `first_environment`: the number in the run
        of the slot's first.
        """
        agents, rows, _ = sizes
        self._profile = profile
        self._seed = seed
        self._first_environment = first_environment
        self._agents = np.arange(agents, dtype=np.int32)
        self._deadline_ms = deadline_ms
        self._now = np.zeros(rows)  # ms, each environment's clock
        # When the last message comes; no later one can come before it.
        self._last = np.zeros((agents, rows))
        # Where a message was lost and waits for its timer.
        self._lost = np.zeros((agents, rows), np.bool_)
        # The last K messages, each in the place of its number modulo K: contents, when they come,
        # and numbers.
        kept = max_age + 1
        # A time of infinity: nothing is there, or the real link has not brought it.
        self._values = np.zeros((kept, *sizes), np.float32)
        self._comes = np.full((kept, agents, rows), np.inf)
        self._numbers = np.full(kept, -1)

    def pass_on(
        self, latents: ReceivedLatents, number: int, began: NDArray[np.int64]
    ) -> ReceivedLatents:
        """Returns what is there by the deadline where the devices send `latents`.

        `number` is the decision's. `began` (E,): the decision that each environment's episode began
        with; nothing before it may be used.
        """
        comes = self._send(latents, number)
        ages = self._ages(number, began)
        known = ages < len(self._numbers)
        values = np.where(known[..., None], self._newest(number, ages), np.float32(0.0))
        # The clock goes on until the last latent is there, or the deadline has passed.
        waited = np.where((ages == 0).all(0), (comes - self._now).max(0), self._deadline_ms)
        self._now += waited
        if not ages.any():
            return ReceivedLatents(values=values)
        return ReceivedLatents(
            values=values, ages=np.where(known, ages, NO_LATENT).astype(np.int32)
        )

    def _send(self, latents: ReceivedLatents, number: int) -> NDArray[np.float64]:
        """Puts a decision's messages on their way; returns (N, E) ms when they come."""
        radio, timer = self._draw(number)
        self._send_again(radio, timer == 0.0)
        comes = self._last = np.maximum(self._last, self._now + radio + timer)
        place = number % len(self._numbers)
        self._values[place] = latents.values
        self._numbers[place] = number
        self._comes[place] = comes
        if latents.ages is not None:  # latents that the real link has not brought are never sent on
            self._comes[place] = np.where(latents.ages == 0, comes, np.inf)
        return comes

    def _ages(self, number: int, began: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns (N, E) the age of the newest message that is here; K where there is none."""
        kept = len(self._numbers)
        here = self._comes <= self._now + self._deadline_ms  # (K, N, E)
        here &= (self._numbers[:, None] >= began)[:, None]  # not of an earlier episode
        ages: NDArray[np.int64] = np.where(here, (number - self._numbers)[:, None, None], kept).min(
            0
        )
        return ages  # (N, E)

    def _newest(self, number: int, ages: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns (N, E, Z) the messages of these ages."""
        agents, rows = np.indices(ages.shape, sparse=True)
        newest: NDArray[np.float32] = self._values[
            (number - ages) % len(self._numbers), agents, rows
        ]
        return newest

    def _send_again(self, radio: NDArray[np.float64], arrives: NDArray[np.bool_]) -> None:
        """Sends lost messages again where a new one `arrives` (N, E) and shows the loss."""
        again = np.where(self._lost & arrives, self._now + WAYS_AGAIN * radio, np.inf)
        self._last = np.minimum(self._last, again)
        self._comes = np.where(np.isinf(self._comes), np.inf, np.minimum(self._comes, again))
        self._lost = ~arrives

    def _draw(self, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns (N, E) ms on the way, and ms until the timer sends again (0: not lost)."""
        profile = self._profile
        shape = self._last.shape
        draw = Draw(
            seed=self._seed,
            purpose=Purpose.LINK,
            step=number,
            first_environment=self._first_environment,
            agents=self._agents,
        )
        jitter, lost = np.moveaxis(draw.uniform(shape[1], 2).astype(np.float64), -1, 0)
        radio = profile.delay_ms + profile.jitter_ms * (2.0 * jitter - 1.0)
        losses = np.zeros(shape)
        if profile.loss:
            # The number of losses in a row is geometric: P(k or more) = loss^k.
            losses = np.floor(np.log(lost) / np.log(profile.loss))
        # The timer doubles: after n losses it has run 1 + 2 + ... + 2^(n-1) times its shortest.
        return np.maximum(radio, 0.0), RETRY_MS * (2.0**losses - 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Returns the clocks and the messages on their way."""
        return {
            "now": self._now.copy(),
            "last": self._last.copy(),
            "lost": self._lost.copy(),
            "values": self._values.copy(),
            "comes": self._comes.copy(),
            "numbers": self._numbers.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state. Raises ValueError where it is of another shape."""
        # Filled in place, which raises ValueError for another shape.
        self._now[:] = state["now"]
        self._last[:] = state["last"]
        self._lost[:] = state["lost"]
        self._values[:] = state["values"]
        self._comes[:] = state["comes"]
        self._numbers[:] = state["numbers"]


def emulated_links(session: SessionSpec, settings: PoolSettings) -> list[EmulatedLink]:
    """Returns one link for each slot, or none where nothing is emulated."""
    if settings.profile == LinkProfile():
        return []
    shape = session.shape
    return [
        EmulatedLink(
            settings.profile,
            deadline_ms=1e3 * settings.deadline_s,
            max_age=settings.max_age,
            sizes=(len(shape.obs_sizes), settings.rows, shape.latent_max()),
            seed=settings.seed,
            first_environment=slot * settings.rows,
        )
        for slot in range(settings.slots)
    ]
