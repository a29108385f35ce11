"""The keys that name code of the user's own, and the files that may name it.

Whatever stands on the command line is the user's own word. A file may be a stranger's, and the
module that it names may lie in the same folder; so a function that a file names is called only with
--trust. Files that are part of this package name none.
"""

from __future__ import annotations

import operator
from collections.abc import Set

from sde_harl.config.layers import Layer
from sde_harl.config.schema import Config
from sde_harl.errors import UserError

CODE_KEYS = {"env.factory": "pettingzoo", "executor.sensor": "devices"}
"""Keys whose value is module:function, each with the env.name that has the function called."""


def named_code(config: Config) -> dict[str, str]:
    """Returns the functions that a run calls, as module:function, by key."""
    return {
        key: operator.attrgetter(key)(config)
        for key, env_name in CODE_KEYS.items()
        if config.env.name == env_name
    }


def refuse_strange_code(config: Config, file: Layer, typed: Set[str]) -> None:
    """Raises UserError where a run would call a function that only a file names.

    `file`: what the file says; `typed`: the keys of the command line, which win over it.
    """
    for key, spelt in named_code(config).items():
        if key in file and key not in typed:
            raise UserError(
                f"{key}: expected --trust on the command line, for this file names code to run,"
                f" got {spelt} ({file[key].source}); if you trust it, add --trust or {key}={spelt}"
            )
