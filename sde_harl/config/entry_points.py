"""Functions of the user's own, named as module:function in a configuration or a command line."""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sde_harl.errors import UserError

NAMED = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")

FAILURES = (Exception, SystemExit)
"""All that a user's code may raise, which may call exit(): that would end the run in silence."""


def function(key: str, spelt: str) -> Callable[..., Any]:
    """Returns the function that `spelt`, the value of key `key`, names as module:function.

    Importing its module runs that module's code. So call this only with what the user of this
    process has written, never with what another rank has sent. Raises UserError where there is no
    such function, and where the module can't be imported.
    """
    match = NAMED.fullmatch(spelt)
    if match is None:
        raise UserError(f"{key}: expected module:function, got {spelt!r}")
    try:
        with explained(f"{key}: {spelt}: import", passing=ImportError):
            module = importlib.import_module(match[1])
        found = getattr(module, match[2])
    except (ImportError, AttributeError) as error:
        reason = one_line(error)
        raise UserError(f"{key}: can't take {match[2]} from {match[1]}: {reason}") from error
    if not callable(found):
        raise UserError(f"{key}: {spelt} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


@contextmanager
def explained(place: str, *, passing: type[Exception] = UserError) -> Iterator[None]:
    """Turns whatever the user's code raises into a UserError of one line that begins with `place`.

    It names the line of the user's code. UserErrors and errors of type `passing` stay as they are.
    """
    try:
        yield
    except (UserError, passing):
        raise
    except FAILURES as error:
        raise explanation(place, error) from error


def explanation(place: str, error: BaseException) -> UserError:
    """Returns the error that `explained` raises, for code in which `with` would take too long."""
    # Where the user's code failed, not where it was called.
    last = traceback.extract_tb(error.__traceback__)[-1]
    kind = type(error).__name__
    return UserError(f"{place}: {kind}: {one_line(error)} ({last.filename}:{last.lineno})")


def one_line(error: BaseException) -> str:
    """Returns the text of an exception, which may have many lines, on one."""
    return " ".join(str(error).split()) or "no message"
