"""What the evaluations of a run sent and won, by the setting of its codec. Needs h5py, numpy and PyYAML alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import yaml

from sde_harl.analysis.curves import Spread, curve, spread
from sde_harl.errors import UserError
from sde_harl.record.reader import Columns, Run


@dataclass(frozen=True)
class Point:
    """One run, at its last evaluation. left_out: why it is none, or nothing."""

    path: str
    task: str
    measure: str
    codec: str
    trained: bool  # has an entropy model
    latent: int
    seed: str
    steps: int
    score: float
    bytes: float  # sent for a decision of one agent, payloads alone
    model_bits: float  # by the entropy model's tables, of the same; NaN where it has none
    left_out: str = ""


@dataclass(frozen=True)
class Row:
    """One setting on one task, over its seeds."""

    task: str
    measure: str
    codec: str
    trained: bool
    latent: int
    seeds: list[str]
    steps: Spread
    score: Spread
    bytes: Spread
    bits: Spread
    per_element: Spread
    sent_to_model: Spread


def point(run: Run) -> Point:
    """Raises UserError where the file is damaged."""
    scores, name = curve(run, ("evaluations",)), str(run.meta.get("codec", "unknown"))
    trained, latent = name == "entropy", int(run.meta.get("latent", 0))
    codec = f"{name}, {_setting(run)}" if trained else name
    names = (str(run.path), run.env, scores.measure, codec, trained, latent, run.seed)
    if not scores.values:
        return Point(
            *names, 0, *(math.nan,) * 3, left_out="no evaluations were recorded in this run"
        )
    sent, model_bits = _sent(_last_evaluation(run.table("decisions")))
    missing = (
        "" if sent > 0 and name != "none" else "its last evaluation's latents weren't recorded"
    )
    return Point(*names, scores.steps[-1], scores.values[-1], sent, model_bits, missing)


def rows(points: list[Point]) -> list[Row]:
    """By task, latent, and bytes sent."""
    found: dict[tuple[str, str, str, int], list[Point]] = {}
    for item in sorted(points, key=lambda p: p.seed):
        if not item.left_out:
            found.setdefault((item.task, item.measure, item.codec, item.latent), []).append(item)
    made = [_row(members) for members in found.values()]
    return sorted(made, key=lambda row: (row.task, row.measure, row.latent, row.bytes.mean))


def _row(members: list[Point]) -> Row:
    first = members[0]
    return Row(
        first.task, first.measure, first.codec, first.trained, first.latent, [item.seed for item in members],
        steps=spread(item.steps for item in members),
        score=spread(item.score for item in members),
        bytes=spread(item.bytes for item in members),
        bits=spread(8 * item.bytes for item in members),
        per_element=spread(item.model_bits / item.latent for item in members),
        sent_to_model=spread(8 * item.bytes / item.model_bits for item in members),
    )  # fmt: skip


def _setting(run: Run) -> str:
    """What tells an entropy codec's points apart; a run of before a key was there has it as by default.

    Raises UserError where the configuration can't be read.
    """
    try:
        codec = yaml.safe_load(str(run.meta["config"]))["codec"]
        target, warmup, shared = (
            codec.get(key, 0) for key in ("target_bytes", "rate_warmup", "share_tables")
        )
        parts = [f"{target:g} bytes" if target else f"lambda {codec['rate_coef']:g}"]
        parts += [f"scale {codec.get('latent_scale', 4):g}"]
        return ", ".join(
            parts + [f"warm-up {warmup:g}"] * bool(warmup) + ["shared tables"] * bool(shared)
        )
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run.path}: /meta config doesn't tell the codec's settings") from error


def _last_evaluation(decisions: Columns) -> Columns:
    """Its messages."""
    if not decisions or decisions["train"].all():
        return {}
    chosen = ~decisions["train"].astype(bool)
    chosen &= decisions["step"] == decisions["step"][chosen].max()
    return {name: values[chosen] for name, values in decisions.items()}


def _sent(table: Columns) -> tuple[float, float]:
    """Payload bytes, and bits by the model's tables, for a decision of one agent; NaN where unknown."""
    if not table:
        return math.nan, math.nan
    made, bits = float(table["environments"].sum()), table["ideal_bits"]
    modelled = bool(np.isfinite(bits).all() and (bits >= 0).all())
    return float(table["payload_bytes"].sum()) / made, float(
        bits.sum()
    ) / made if modelled else math.nan
