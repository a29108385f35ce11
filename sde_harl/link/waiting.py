"""Waiting without burning a core.

It spins where answers come at once, else it sleeps, longer the longer the wait.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time

from sde_harl.outside.process import interruption

SHORTEST_SLEEP_S = 20e-6
SLEEP_PER_QUIET = 1 / 16
"""Share of the wait so far that the next sleep takes: an answer is late by at most this share."""
IDLE_AFTER_S = 0.1
"""A quiet as long as this is no longer the pause between two decisions."""
# A shorter quiet counts at once, a longer one little by little: one late answer must not end the
# spinning.
SLOWER = 1 / 8
"""Share of the way to a longer quiet that the usual one moves."""
PR_SET_TIMERSLACK = 29


class Waiter:
    """Paces a polling loop: `pause` after an empty poll, `reset` after a full one.

    While quiets usually end within `spin_us`, spins that long first, giving the core away at each
    turn: where ranks share cores, that is how the rank that has work gets it soonest. Then, or at
    once where answers take longer (a radio link, slow environments), sleeps for a sixteenth of the
    quiet so far, but 20 us at least, and at most `sleep_max_us`, or `idle_max_us` once it has been
    quiet for 100 ms. `sleeps` and `slept_s` count the sleeps.
    """

    def __init__(
        self, spin_us: float = 1000, sleep_max_us: float = 500, idle_max_us: float = 5000
    ) -> None:
        self.sleeps = 0
        self.slept_s = 0.0
        self._spin_s = spin_us * 1e-6
        self._sleep_max_s = sleep_max_us * 1e-6
        self._idle_max_s = idle_max_us * 1e-6
        self._quiet_since: float | None = None
        self._usual_s = 0.0

    def reset(self) -> None:
        """Ends a quiet: something came."""
        if self._quiet_since is not None:
            quiet_s = time.perf_counter() - self._quiet_since
            self._usual_s = min(quiet_s, self._usual_s + (quiet_s - self._usual_s) * SLOWER)
            self._quiet_since = None

    def pause(self, deadline: float) -> bool:
        """Gives the core away or sleeps, once; False if `deadline` (perf_counter) is past.

        Raises KeyboardInterrupt after a signal, where this process is one that signals end.
        """
        interruption.check()
        now = time.perf_counter()
        if now >= deadline:
            return False
        if self._quiet_since is None:
            self._quiet_since = now
        quiet_s = now - self._quiet_since
        if quiet_s < self._spin_s and self._usual_s < self._spin_s:
            os.sched_yield()
            return True
        longest_s = self._sleep_max_s
        if quiet_s > IDLE_AFTER_S:
            longest_s = self._idle_max_s
        time.sleep(min(max(quiet_s * SLEEP_PER_QUIET, SHORTEST_SLEEP_S), longest_s, deadline - now))
        self.sleeps += 1
        self.slept_s += time.perf_counter() - now
        return True


def sharpen_sleeps() -> None:
    """Asks Linux to end this thread's sleeps on time."""
    # By default it may end each one 50 us late, which is more than the shortest sleep here.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
