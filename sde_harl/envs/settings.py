"""The settings that a backend gets, and how it says what it misses or can't do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from sde_harl.errors import UserError


class EnvConfig(Protocol):
    """The settings that environments read: a part of the config's section `env`.

    A protocol, not the config's own class: worker processes and tests give plain objects that have
    these attributes, and need nothing of the config for it.
    """

    @property
    def name(self) -> str:
        """Benchmark: a key of `sde_harl.envs.registry.ENVS`."""

    @property
    def map(self) -> str:
        """Map or scenario of that benchmark."""

    @property
    def backend(self) -> str:
        """Which implementation plays it; "auto" lets `registry.resolve_backend` choose."""

    @property
    def continuous_actions(self) -> bool:
        """Asks the benchmark for its continuous action spaces."""

    @property
    def workers(self) -> int:
        """Worker processes that step a vector of single games; 0 = none, in this process."""

    @property
    def agent_id(self) -> bool:
        """StarCraft II: observations end with the agent's number, one-hot."""

    @property
    def last_action(self) -> bool:
        """StarCraft II: observations show the last actions of the agent and of visible allies."""

    @property
    def representation(self) -> str:
        """football: what agents observe, simple115v2 or extracted."""

    @property
    def stacked(self) -> bool:
        """football: observations hold the last four steps, where they are maps (extracted)."""

    @property
    def rewards(self) -> str:
        """football: "scoring" or "scoring,checkpoints"."""

    @property
    def agent_obsk(self) -> int:
        """mamujoco: how many joints away an agent sees; -1 = all of the robot."""

    @property
    def factory(self) -> str:
        """pettingzoo: "module:function" that makes the environment."""

    @property
    def spec(self) -> str:
        """devices: the file that holds the spec."""

    @property
    def steps(self) -> int:
        """devices: decisions of an episode; 0 = the spec's limit."""


class Requirements(NamedTuple):
    """Tells whether a backend can be used on this host, as a clause that may follow "because"."""

    missing: str = ""
    """Names what is not here; "" if nothing is missing."""
    present: str = ""
    """Names what is here; "" where that needs no mention."""


def unknown_value(key: str, given: str, valid: Iterable[str]) -> UserError:
    """Returns the error for a value of config key `key` that is none of `valid`.

    It lists the valid ones, the most similar first.
    """

    def dissimilarity(name: str) -> float:
        return -difflib.SequenceMatcher(None, name, given).ratio()

    # Sorted, not cut to close matches: a user may not know any of the names.
    nearest = sorted(valid, key=dissimilarity)
    return UserError(f"{key}: unknown value {given!r}; choose one of: {', '.join(nearest)}")
