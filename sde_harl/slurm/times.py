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
    limit_s = span_s(time)
    if limit_s is None:
        raise UserError(f"--time: expected hours:minutes:seconds or days-hours, got {time}")
    if limit_s < 2 * int(before):
        raise UserError(f"--time: expected twice the {before} s of --signal or more, got {time}")


def span_s(time: str) -> int | None:
    """Returns the seconds of a time span in any of Slurm's spellings; None for anything else."""
    found = TIME.fullmatch(time)
    if found is None:
        return None
    numbers = [int(part) for part in found["parts"].split(":")]
    # Behind days the first number is hours. Else one number is minutes, and two are minutes first.
    if found["days"] is None and len(numbers) < 3:
        numbers.insert(0, 0)
    hours, minutes, rest = [*numbers, 0, 0][:3]
    return int(found["days"] or 0) * 86_400 + hours * 3600 + minutes * 60 + rest
