"""Functions of the user's own, named in a configuration or on a command line as module:function."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

from sde_harl.errors import UserError

NAMED = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def function(key: str, spelt: str) -> Callable[..., Any]:
    """The function that "module:function" names, as the value of config key `key`.

    Its module is imported, which runs it: call this only with what the user of this process has written. Raises
    UserError where there is no such function, and whatever the module raises.
    """
    match = NAMED.fullmatch(spelt)
    if match is None:
        raise UserError(f"{key}: expected module:function, got {spelt!r}")
    try:
        found = getattr(importlib.import_module(match[1]), match[2])
    except (ImportError, AttributeError) as error:
        raise UserError(f"{key}: can't take {match[2]} from {match[1]}: {error}") from error
    if not callable(found):
        raise UserError(f"{key}: {spelt} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]
