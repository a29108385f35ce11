"""Writes what the runs have learnt: curves over seeds, and how algorithms compare."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from sde_harl.analysis import figures
from sde_harl.analysis.uncertainty import Interval, improvement, iqm, profile
from sde_harl.record.schema import Array
from sde_harl.report.lines import Line
from sde_harl.report.page import Html, heading, panel, panels, paragraph, section, table
from sde_harl.report.svg import PANEL, as_svg

MOST_POINTS = 200
"""Points of a curve that are drawn."""
THRESHOLDS = 60
MOST_PAIRS = 15
CURVES = (
    "Line: interquartile mean over seeds (of fewer than four, the mean). Band: its 95 % interval,"
    " a percentile bootstrap over seeds; a single seed has none."
)


class Comparison(NamedTuple):
    """Scores of several methods in the same tasks."""

    title: str
    measure: str
    scores: dict[str, list[Array]]
    """By the name of a method: for each task the scores of its runs (seeds,)."""
    colours: dict[str, str]
    styles: dict[str, str]
    labels: dict[str, str]
    """Letters and short names, for figures."""


def learning_section(lines: list[Line]) -> Html:
    parts = []
    for (env, measure, source), members in _tasks(lines).items():
        parts.append(panel(_curve_figure(env, measure, members), _caption(source)))
    missing = [
        f"{line.letter}, {run.path.parent.name}"
        for line in lines
        for run in line.runs
        if str(run.path) not in {each.path for each in line.curves}
    ]
    told = [panels(parts)]
    if missing:
        told.append(paragraph(f"No such values were recorded in: {'; '.join(missing)}.", "soft"))
    if not parts:
        told = [paragraph("No evaluations and no training values were recorded in these runs.")]
    return section("learning", "What was learnt", told)


def _caption(source: str) -> str:
    if source == "training":
        return f"Of episodes played in training, while the policies explore. {CURVES}"
    return f"Greedy evaluations. {CURVES}"


def _tasks(lines: list[Line]) -> dict[tuple[str, str, str], list[Line]]:
    found: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        if line.curves:
            found.setdefault((line.env, line.measure, line.source), []).append(line)
    return found


def _curve_figure(env: str, measure: str, lines: list[Line]) -> str:
    figure = figures.new_figure(PANEL[0], PANEL[1] + 0.15 * len(lines))
    axes = figure.add_subplot()
    axes.set_title(env)
    figures.over_steps(axes, measure)
    for line in lines:
        steps, values = line.aligned()
        if not len(steps):  # no step is common to all seeds
            continue
        chosen = np.unique(np.linspace(0, len(steps) - 1, MOST_POINTS).astype(int))
        mean = iqm([values[:, chosen]])
        figures.draw_line(
            axes,
            steps[chosen],
            mean.value,
            color=line.colour,
            linestyle=line.style,
            label=line.label,
        )
        axes.fill_between(
            steps[chosen], mean.low, mean.high, color=line.colour, alpha=0.2, linewidth=0
        )
    figures.add_legend(axes)
    return as_svg(figure, f"{measure} over environment steps in {env}")


def comparison_section(lines: list[Line]) -> Html | None:
    """Returns performance profiles and probabilities of improvement; None for a single line."""
    parts = []
    for each in _comparisons(lines):
        parts.append(heading(each.title))
        parts.append(panels([_profile_panel(each), _improvement_panel(each)]))
        parts.append(table(("pair", "probability", "95 % interval"), _pair_rows(each)))
    if not parts:
        return None
    note = (
        "Scores are those at the last step that all runs of a task have reached. Intervals are"
        " stratified bootstraps: seeds are drawn again within each task (Agarwal et al., 2021)."
    )
    return section("comparison", "How the methods compare", [paragraph(note, "soft"), *parts])


def _comparisons(lines: list[Line]) -> list[Comparison]:
    tasks = [
        members
        for (_, _, source), members in _tasks(lines).items()
        if source == "evaluations" and len(members) > 1
    ]
    # Win rates of several tasks have one scale; returns haven't.
    won = [members for members in tasks if members[0].measure == "win rate"]
    common = [line.method for line in won[0]] if won else []
    for members in won[1:]:
        common = [each for each in common if each in {line.method for line in members}]
    if len(won) > 1 and len(common) > 1:
        return [
            _comparison(f"Win rate, {len(won)} tasks", won, common),
            *(_of_one_task(each) for each in tasks),
        ]
    return [_of_one_task(each) for each in tasks]


def _of_one_task(members: list[Line]) -> Comparison:
    return _comparison(members[0].env, [members], [line.method for line in members])


def _comparison(title: str, tasks: list[list[Line]], methods: list[str]) -> Comparison:
    by_name = [{line.method: line for line in members} for members in tasks]
    # A method may have a letter of its own in each task.
    labels = {
        name: ", ".join(of[name].letter for of in by_name) + f"  {_short(name)}" for name in methods
    }
    ends = [_common_end(members) for members in tasks]
    return Comparison(
        title=f"{title}, at {' and '.join(f'{end:,}' for end in ends)} steps",
        measure=tasks[0][0].measure,
        scores={
            name: [_scores_at(of[name], end) for of, end in zip(by_name, ends, strict=True)]
            for name in methods
        },
        colours={name: by_name[0][name].colour for name in methods},
        styles={name: by_name[0][name].style for name in methods},
        labels=labels,
    )


def _common_end(members: list[Line]) -> int:
    """Returns the last step that all runs of a task have reached."""
    return min(curve.steps[-1] for line in members for curve in line.curves)


def _scores_at(line: Line, step: int) -> Array:
    """Returns each run's score at a step; between two evaluations a curve is taken as straight."""
    return np.array([np.interp(step, curve.steps, curve.values) for curve in line.curves])


def _profile_panel(comparison: Comparison) -> Html:
    figure = figures.new_figure(PANEL[0], PANEL[1] + 0.15 * len(comparison.scores))
    axes = figure.add_subplot()
    everything = np.concatenate([each for of in comparison.scores.values() for each in of])
    spare = 0.05 * max(float(np.ptp(everything)), 1e-3)
    thresholds = np.linspace(everything.min() - spare, everything.max() + spare, THRESHOLDS)
    for name, scores in comparison.scores.items():
        share = profile(scores, thresholds)
        colour = comparison.colours[name]
        axes.step(
            thresholds,
            share.value,
            where="post",
            color=colour,
            linestyle=comparison.styles[name],
            label=comparison.labels[name],
        )
        axes.fill_between(
            thresholds,
            share.low,
            share.high,
            step="post",
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
    score = figures.with_unit(comparison.measure)
    axes.set(xlabel=f"τ: {score}", ylabel="share of runs above τ", ylim=(-0.02, 1.02))
    # Scores that lie close together have long numbers, of which few stand side by side.
    axes.locator_params(axis="x", nbins=4)
    figures.add_legend(axes)
    svg = as_svg(figure, f"performance profile, {comparison.title}")
    return panel(
        svg, "Performance profile: the share of runs that reach a score. Higher is better."
    )


def _short(name: str) -> str:
    if len(name) > 40:
        return f"{name[:39]}…"
    return name


def _pairs(comparison: Comparison) -> list[tuple[str, str, Interval]]:
    names = list(comparison.scores)
    pairs = list(itertools.combinations(names, 2))
    # Many methods have too many pairs to read: then each is held against the first.
    if len(pairs) > MOST_PAIRS:
        pairs = [(names[0], each) for each in names[1:]]
    return [(a, b, improvement(comparison.scores[a], comparison.scores[b])) for a, b in pairs]


def _improvement_panel(comparison: Comparison) -> Html:
    pairs = _pairs(comparison)
    figure = figures.new_figure(PANEL[0], max(PANEL[1], 0.9 + 0.5 * len(pairs)))
    axes = figure.add_subplot()
    for place, (_, _, chance) in enumerate(pairs):
        value = float(chance.value)
        ends = np.nan_to_num([[value - float(chance.low)], [float(chance.high) - value]])
        axes.errorbar([value], [place], xerr=abs(ends), fmt="o", color="C0", capsize=4)
    axes.axvline(0.5, color=figures.INK, linestyle=":")
    letters = {name: label.partition("  ")[0] for name, label in comparison.labels.items()}
    axes.set_yticks(range(len(pairs)), [f"{letters[a]} over {letters[b]}" for a, b, _ in pairs])
    axes.set(xlim=(-0.02, 1.02), ylim=(len(pairs) - 0.5, -0.5))
    axes.set_xlabel("probability of improvement")
    svg = as_svg(figure, f"probability of improvement, {comparison.title}")
    return panel(svg, "The chance that a run of one beats a run of the other; ½: no difference.")


def _pair_rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    return [(f"{a} over {b}", f"{float(c.value):.2f}", _ends(c)) for a, b, c in _pairs(comparison)]


def _ends(chance: Interval) -> str:
    if np.isnan(chance.low):
        return "unknown: a single seed"
    return f"{float(chance.low):.2f} to {float(chance.high):.2f}"
