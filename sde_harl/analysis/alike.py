"""Tells runs that differ in nothing but the seed from those that differ in more.

Only the former may be counted together. What differs is said, never averaged over in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from sde_harl.config.yaml_text import load
from sde_harl.record.reader import Run

TOLD_ELSEWHERE = ("seed", "train.resume", "algo.name")
ABOUT_FILES = "record."
"""Keys that change where and what a run records, and nothing that it measures."""
META_FACTS = {
    "algo": "algo",
    "backend": "backend",
    "git_revision": "code",
    "placement": "placement",
    "executors": "executors",
    "emulated": "emulated",
}
Facts = dict[str, str]


def settings(run: Run) -> Facts:
    """Returns the run's configuration by key ("policy.blocks"), its values as text.

    Raises UserError where the record's configuration can't be read.
    """
    return dict(_flat(load(run.text("config", ""), f"{run.path}: /meta config"), ""))


def _flat(value: Any, key: str) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        below = value.items()
        return [each for name, item in below for each in _flat(item, f"{key}.{name}")]
    return [(key.strip("."), str(value))]


def facts(run: Run) -> Facts:
    """Returns what can change a run's figures, but the seed. Raises UserError as `settings`."""
    about = {name: run.text(key, "") for key, name in META_FACTS.items()}
    chosen = {
        key: value
        for key, value in settings(run).items()
        if key not in TOLD_ELSEWHERE and not key.startswith(ABOUT_FILES)
    }
    return {**about, "experiment": run.exp, **chosen}


def differences(runs: Sequence[Run], key: Callable[[Run], Hashable], *, but: str = "") -> list[str]:
    """Returns for each run what tells it from unlike runs of the same `key`.

    That is text such as "code 1b2c3d, policy.local_blocks 2, 3 more", where three more keys differ
    in the same way; empty where all runs of its key are
    alike. Runs of one key and one text may be counted together. Raises UserError as `settings`.

    but: the section of the configuration ("codec.") that is left out of it.
    """
    of_key: dict[Hashable, list[int]] = {}
    for number, run in enumerate(runs):
        of_key.setdefault(key(run), []).append(number)
    told = [""] * len(runs)
    for members in of_key.values():
        names = _names([_without(facts(runs[number]), but) for number in members])
        for number, name in zip(members, names, strict=True):
            told[number] = name
    return told


def _without(found: Facts, section: str) -> Facts:
    if not section:
        return found
    return {key: value for key, value in found.items() if not key.startswith(section)}


def _names(members: list[Facts]) -> list[str]:
    keys = list(dict.fromkeys(key for each in members for key in each))
    unlike = [key for key in keys if len({each.get(key) for each in members}) > 1]
    # Last come the keys that records of an earlier version lack: they say least.
    unlike.sort(key=lambda key: any(key not in each for each in members))
    shown = _enough(unlike, members)
    return [_name(each, shown, more=len(unlike) - len(shown)) for each in members]


def _enough(unlike: list[str], members: list[Facts]) -> list[str]:
    """Returns the first of the keys by which all unlike members are told apart."""

    def kinds(keys: list[str]) -> int:
        return len({tuple(each.get(key) for key in keys) for each in members})

    shown: list[str] = []
    for key in unlike:
        # A key that parts no more members would only make the names longer.
        if kinds([*shown, key]) > kinds(shown):
            shown.append(key)
    return shown


def _name(member: Facts, shown: list[str], more: int) -> str:
    parts = [f"{key} {member.get(key, 'unknown') or 'none'}" for key in shown]
    if more:
        parts.append(f"{more} more")
    return ", ".join(parts)
