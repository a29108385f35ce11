"""Links and devices by name: profiles.toml, and figures in their place. A wrong word is named by a ProfileError."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tomllib

FILE = Path(__file__).with_name("profiles.toml")
MEDIA = 64  # netemu.c


class ProfileError(Exception):
    """What can't be emulated, in one line."""


class Way(NamedTuple):
    """One direction of a link."""

    delay_us: float = 0.0
    jitter_us: float = 0.0
    """The delay varies by up to this, either way."""
    loss_percent: float = 0.0
    rate_mbit: float = 0.0
    """Mbit/s; 0: no limit."""
    frame_us: float = 0.0
    """What a frame costs beside its bits."""

    def line(self) -> str:
        """As netemu reads it."""
        fields = (
            self.delay_us,
            self.jitter_us,
            self.loss_percent,
            self.rate_mbit * 1e6,
            self.frame_us,
        )
        return " ".join(f"{each:.12g}" for each in fields)


MOST = Way(delay_us=60e6, jitter_us=60e6, loss_percent=100.0, rate_mbit=1e6, frame_us=1e6)


class Link(NamedTuple):
    """Up is from the host to the switch."""

    name: str
    """The profile's, and what was changed of it."""
    medium: int
    """Links of one number share the air; -1: each direction has a wire of its own."""
    up: Way
    down: Way


class Device(NamedTuple):
    name: str
    cores: float
    """Share of one core."""


def link(name: str, changes: Iterable[str] = (), file: Path = FILE) -> Link:
    """The link `name`, with `changes` such as loss_percent=1 or up.rate_mbit=5. Raises ProfileError."""
    changes = [*changes]
    found = dict(_profile("link", name, file))
    pairs: dict[str, Any] = {way: {**_both(found), **found.get(way, {})} for way in ("up", "down")}
    medium = found.get("medium", -1)
    if type(medium) is not int or not -1 <= medium < MEDIA:
        raise ProfileError(
            f"{file.name}: link.{name}: medium: expected -1 to {MEDIA - 1}, got {medium!r}"
        )
    for change in changes:
        key, _, text = change.partition("=")
        way, dot, figure = key.rpartition(".")
        if dot and way not in pairs:
            raise ProfileError(f"{change}: expected up or down before the dot")
        for each in [way] if dot else pairs:
            pairs[each][figure] = text
    label = f"{name} with {' '.join(changes)}" if changes else name
    return Link(label, medium, *(_way(label, way, pairs[way]) for way in ("up", "down")))


def device(name: str, file: Path = FILE) -> Device:
    """The device `name`. Raises ProfileError."""
    cores = _number(f"device.{name}.cores", _profile("device", name, file).get("cores"))
    if not 0.01 <= cores <= 1024:
        raise ProfileError(f"device.{name}.cores: expected 0.01 to 1024, got {cores:g}")
    return Device(name, cores)


def _profile(kind: str, name: str, file: Path) -> Mapping[str, Any]:
    try:
        profiles = tomllib.loads(file.read_text(encoding="utf-8"))[kind]
    except (OSError, ValueError, KeyError) as error:
        raise ProfileError(f"{file}: no profiles of kind {kind}: {error}") from error
    if name not in profiles:
        raise ProfileError(f"{name}: no such {kind}; there are {', '.join(profiles)}")
    found: Mapping[str, Any] = profiles[name]
    return found


def _both(found: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that stand for both directions."""
    return {key: value for key, value in found.items() if key not in ("medium", "up", "down")}


def _way(label: str, way: str, pairs: Mapping[str, Any]) -> Way:
    values = {}
    for key, raw in pairs.items():
        if key not in Way._fields:
            raise ProfileError(
                f"{label}: {key}: no such figure; there are {', '.join(Way._fields)}"
            )
        values[key] = value = _number(f"{label}: {way}.{key}", raw)
        most = getattr(MOST, key)
        if not 0 <= value <= most:
            raise ProfileError(f"{label}: {way}.{key}: expected 0 to {most:g}, got {value:g}")
    return Way(**values)


def _number(name: str, raw: Any) -> float:
    try:
        value = math.nan if isinstance(raw, bool) else float(raw)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ProfileError(f"{name}: expected a number, got {raw!r}")
    return value
