"""Functions of the user's own, named as module:function in a configuration or a command line."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

from sde_harl.errors import UserError

NAMED = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def function(key: str, spelt: str) -> Callable[..., Any]:
    """Returns the function that `spelt`, the value of key `key`, names as module:function.

    Importing its module runs that module's code. So call this only with what the user of this
    process has written, never with what another rank has sent. Raises UserError where there is no
    such function, and whatever the module itself raises.
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
