"""Tells what a run's last evaluation sent and earned, by the setting of its codec."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sde_harl.analysis.alike import differences
from sde_harl.analysis.each_run import of_each
from sde_harl.analysis.learning_curves import learning_curve
from sde_harl.analysis.run_config import setting
from sde_harl.analysis.statistics import Spread, spread
from sde_harl.record.reader import Columns, Run

DEFAULT_LATENT_SCALE = 4.0


class Setting(NamedTuple):
    """Identifies points that differ in nothing but the seed."""

    task: str
    measure: str
    codec: str
    trained: bool  # the codec has an entropy model
    latent: int
    unlike: str = ""
    """What tells the run from others of its task, but for the codec; empty where all are alike."""

    @property
    def line(self) -> tuple[str | bool | int, ...]:
        """Returns what settings have in common that are points of one curve."""
        return self.task, self.measure, self.trained, self.latent, self.unlike


@dataclass(frozen=True, kw_only=True)
class Point:
    """Holds one run's last evaluation."""

    path: str
    setting: Setting
    seed: str
    steps: int
    score: float
    bytes: float  # sent for a decision of one agent, payloads alone
    model_bits: float  # the same by the entropy model's tables; NaN where the codec has none
    left_out: str = ""  # why the run is no point; empty where it is one


@dataclass(frozen=True, kw_only=True)
class Row:
    """Holds one setting on one task, over its seeds."""

    task: str
    measure: str
    codec: str
    trained: bool
    latent: int
    unlike: str  # as in Setting
    seeds: list[str]
    steps: Spread
    score: Spread
    bytes: Spread
    bits: Spread
    per_element: Spread
    sent_to_model: Spread


def point(run: Run) -> Point:
    """Returns a run's point. Raises UserError where the file is damaged."""
    scores = learning_curve(run, ("evaluations",))
    unknown = _unknown_point(run, scores.measure)
    if not scores.values:
        return unknown
    sent = _sent(_last_evaluation(run.table("decisions")))
    return replace(
        unknown,
        steps=scores.steps[-1],
        score=scores.values[-1],
        bytes=sent.bytes,
        model_bits=sent.model_bits,
        left_out=_why_left_out(run, sent),
    )


def _unknown_point(run: Run, measure: str) -> Point:
    return Point(
        path=str(run.path),
        setting=_setting(run, measure),
        seed=run.seed,
        steps=0,
        score=math.nan,
        bytes=math.nan,
        model_bits=math.nan,
        left_out="no evaluations were recorded in this run",
    )


def _setting(run: Run, measure: str) -> Setting:
    trained = run.codec == "entropy"
    codec = run.codec
    if trained:
        codec = f"{run.codec}, {_describe_entropy_codec(run)}"
    return Setting(
        task=run.env,
        measure=measure,
        codec=codec,
        trained=trained,
        latent=run.number("latent"),
    )


def _why_left_out(run: Run, sent: _Sent) -> str:
    # A policy on the device sends actions, not latents. NaN fails the comparison.
    if run.codec != "none" and sent.bytes > 0:
        return ""
    return "its last evaluation's latents weren't recorded"


def points_of(runs: Sequence[Run]) -> list[Point]:
    """Returns the point of each run, with what is unlike in it as a part of its setting.

    Raises UserError where a file is damaged.
    """
    points = of_each(runs, point)
    points = _told_apart(runs, points, but="codec.")
    return _told_apart(runs, points)


def _told_apart(runs: Sequence[Run], points: list[Point], but: str = "") -> list[Point]:
    """Returns the points with what is unlike in their settings, outside the section `but`."""
    settings = {id(run): each.setting for run, each in zip(runs, points, strict=True)}

    def key(run: Run) -> Hashable:
        # The codec is what a curve goes over. All else must be the same along one.
        return settings[id(run)].line if but else settings[id(run)]

    unlike = differences(runs, key, but=but)
    return [
        replace(each, setting=_setting_of_unlike(each.setting, what, curve=bool(but)))
        for each, what in zip(points, unlike, strict=True)
    ]


def _setting_of_unlike(setting: Setting, unlike: str, *, curve: bool) -> Setting:
    if not unlike:
        return setting
    if curve:
        setting = setting._replace(unlike=unlike)
    return setting._replace(codec=f"{setting.codec}, {unlike}")


def rate_rows(points: list[Point]) -> list[Row]:
    """Returns a row for each setting, by task, latent and bytes sent."""
    found: dict[Setting, list[Point]] = {}
    for each in sorted(points, key=lambda each: each.seed):
        if not each.left_out:
            found.setdefault(each.setting, []).append(each)
    rows = [_row(setting, members) for setting, members in found.items()]
    return sorted(rows, key=lambda row: (row.task, row.measure, row.latent, row.bytes.mean))


def _row(setting: Setting, members: list[Point]) -> Row:
    return Row(
        **setting._asdict(),
        seeds=[each.seed for each in members],
        steps=spread(each.steps for each in members),
        score=spread(each.score for each in members),
        bytes=spread(each.bytes for each in members),
        bits=spread(8 * each.bytes for each in members),
        per_element=spread(each.model_bits / setting.latent for each in members),
        sent_to_model=spread(8 * each.bytes / each.model_bits for each in members),
    )


def _describe_entropy_codec(run: Run) -> str:
    """Returns what tells an entropy codec's points apart.

    Raises UserError where the configuration can't be read.
    """
    # A run from before a key existed had what is the default today. A target of bytes comes
    # first: the controller then moves lambda, and the configured one says nothing.
    target_bytes = setting(run, "codec.target_bytes", 0.0, kind=float)
    scale = setting(run, "codec.latent_scale", DEFAULT_LATENT_SCALE, kind=float)
    warm_up = setting(run, "codec.rate_warmup", 0.0, kind=float)
    parts = []
    if target_bytes:
        parts.append(f"{target_bytes:g} bytes")
    else:
        parts.append(f"lambda {setting(run, 'codec.rate_coef', kind=float):g}")
    parts.append(f"scale {scale:g}")
    if warm_up:
        parts.append(f"warm-up {warm_up:g}")
    if setting(run, "codec.share_tables", False, kind=bool):
        parts.append("shared tables")
    return ", ".join(parts)


def _last_evaluation(decisions: Columns) -> Columns:
    """Returns the messages of the last evaluation; empty where there was none."""
    if not decisions or decisions["train"].all():
        return {}
    chosen = ~decisions["train"].astype(bool)
    chosen &= decisions["step"] == decisions["step"][chosen].max()
    return {name: values[chosen] for name, values in decisions.items()}


class _Sent(NamedTuple):
    """Holds what was sent for a decision of one agent; NaN: unknown."""

    bytes: float
    model_bits: float


def _sent(decisions: Columns) -> _Sent:
    if not decisions:
        return _Sent(bytes=math.nan, model_bits=math.nan)
    count = float(decisions["environments"].sum())
    bits = decisions["ideal_bits"]
    model_bits = math.nan
    # One message without a probability would make the sum too small.
    if np.isfinite(bits).all() and (bits >= 0).all():
        model_bits = float(bits.sum()) / count
    return _Sent(bytes=float(decisions["payload_bytes"].sum()) / count, model_bits=model_bits)
