"""Checks the time limit of a job, and the signal that comes before it."""

from __future__ import annotations

import re

from sde_harl.errors import UserError
from sde_harl.outside.process import STOPS

# Minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes, and with seconds.
TIME = re.compile(r"((?P<days>\d+)-)?(?P<parts>\d+(:\d+){0,2})")
SIGNALS = tuple(each.name.replace("SIG", "", 1) for each in STOPS)


def check_times(time: str, signal: str) -> None:
    """Raises UserError where either is misspelt, or the signal comes before the run can start."""
    name, _, before = signal.partition("@")
    if name not in SIGNALS or not before.isdecimal():
        raise UserError(f"--signal: expected NAME@SECONDS with {', '.join(SIGNALS)}, got {signal}")
    found = TIME.fullmatch(time)
    if found is None:
        raise UserError(f"--time: expected hours:minutes:seconds or days-hours, got {time}")
    if _seconds(found) < 2 * int(before):
        raise UserError(f"--time: expected twice the {before} s of --signal or more, got {time}")


def _seconds(time: re.Match[str]) -> int:
    numbers = [int(part) for part in time["parts"].split(":")]
    # Behind days the first number is hours. Else one number is minutes, and two are minutes first.
    if time["days"] is None and len(numbers) < 3:
        numbers.insert(0, 0)
    hours, minutes, seconds = [*numbers, 0, 0][:3]
    return int(time["days"] or 0) * 86_400 + hours * 3600 + minutes * 60 + seconds
