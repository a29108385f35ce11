"""Draws which symbols an evaluation sent, beside what the entropy model expects of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sde_harl.analysis import figures
from sde_harl.analysis.latency import is_on_device
from sde_harl.codec.symbols import BINS, EDGE, SYMBOLS
from sde_harl.record.reader import Run
from sde_harl.record.schema import Array
from sde_harl.report.page import Html, panel
from sde_harl.report.svg import PANEL, as_svg

LEAST_SHARE = 5e-4
"""Bins at both ends that hold less of what was sent and expected are not drawn."""
LEAST_EDGE = 3
"""Symbols up to which bins are drawn, whatever they hold."""


class Symbols(NamedTuple):
    """The symbols of the last evaluation that was recorded whole, of all agents."""

    step: int
    total: float
    """Symbols that were sent."""
    sent: Array  # (BINS,) shares, which add up to 1
    expected: Array  # (BINS,)


def sent_symbols(run: Run) -> Symbols | None:
    """Returns what the last evaluation sent; None where nothing was counted.

    Raises ValueError for what is no histogram beside probabilities.
    """
    table = run.table("symbols")
    if not table:
        return None
    # An evaluation's rows are BINS for each agent, all symbols of one after those of another. A
    # kill may have cut the last one's.
    rows = len(table["symbol"]) // BINS * BINS
    steps, symbols, sent, probability = (
        table[name][:rows].reshape(-1, BINS) for name in ("step", "symbol", "sent", "probability")
    )
    if not (symbols == SYMBOLS).all():
        raise ValueError(f"/symbols has others than {-EDGE} to {EDGE}, in order, for each agent")
    # float32 is exact to 1e-7. A comparison with NaN is false.
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("/symbols has a probability that is none")
    if not (abs(probability.sum(1, dtype=float) - 1) < 1e-3).all():
        raise ValueError("/symbols has probabilities that don't add up to 1")
    # As float: a stranger's counts may add up to more than an integer holds.
    counts = sent.astype(float)
    chosen = (steps == _last_played(steps, counts)).all(1)
    total = float(counts[chosen].sum())
    if not total:
        return None
    # What agents send differs in number where their latents differ in size.
    weights = counts[chosen].sum(1) / total
    return Symbols(
        step=int(steps[chosen][0, 0]),
        total=total,
        sent=counts[chosen].sum(0) / total,
        expected=weights @ probability[chosen].astype(float),
    )


def _last_played(steps: Array, counts: Array) -> int:
    """Returns the step of the last evaluation in which symbols were sent."""
    played = steps[counts.any(1), 0]
    return int(played[-1]) if len(played) else -1


def why_none(run: Run) -> str:
    """Says why a run has no histogram of symbols."""
    if is_on_device(run):
        return "because its devices run whole policies and send no latents"
    if run.codec != "entropy":
        return f"because its codec, {run.codec}, has no entropy model"
    if not run.table("evaluations"):
        return "because they are counted in evaluations, and it has none yet"
    if not run.table("symbols"):
        return "because its record was written by a version that didn't count symbols"
    return "because no latents came in its evaluations"


def symbols_panel(name: str, found: Symbols) -> Html:
    """Draws what the run `name` sent as bars, and what was expected as a line."""
    figure = figures.new_figure(*PANEL)
    axes = figure.add_subplot()
    drawn = _drawn(found)
    x = SYMBOLS[drawn]
    axes.bar(x, 100 * found.sent[drawn], width=0.8, color=figures.COLOURS[0], label="sent")
    # In ink, which stands out from the bars by its lightness, by day and by night.
    axes.plot(
        x,
        100 * found.expected[drawn],
        color=figures.INK,
        marker="o",
        markersize=3,
        label="expected by the model",
    )
    axes.set(xlabel="symbol: steps from the median", ylabel="share of symbols, %", ylim=(0, None))
    axes.set_xticks(*_ticks(int(x[-1])))
    axes.grid(False, axis="x")
    axes.set_title(f"{name}: symbols, step {found.step:,}")
    figures.add_legend(axes, columns=2)
    return panel(as_svg(figure, f"symbols sent and expected, {name}"), _caption(found))


def _drawn(found: Symbols) -> slice:
    """Returns the bins from -k to k that leave nothing out that could be seen."""
    seen = np.abs(SYMBOLS[np.maximum(found.sent, found.expected) >= LEAST_SHARE])
    edge = max(LEAST_EDGE, int(seen.max(initial=0)))
    return slice(EDGE - edge, EDGE + edge + 1)


def _ticks(edge: int) -> tuple[list[int], list[str]]:
    """Returns about five ticks on either side of 0, and what stands at them."""
    places = list(range(-edge, edge + 1, max(1, edge // 4)))
    names = {-EDGE: f"≤ -{EDGE}", EDGE: f"≥ {EDGE}"}
    return places, [names.get(place, str(place)) for place in places]


def _caption(found: Symbols) -> str:
    differing = abs(found.sent - found.expected).sum() / 2
    return (
        f"The {found.total:,.0f} symbols of the last evaluation, of all agents and latent elements"
        " together. Where bars and line differ, messages are longer than they need be:"
        f" {differing:.1%} of the symbols would have to be others for the two to agree. Elements"
        " that differ in opposite ways don't show here."
    )
