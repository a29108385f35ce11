"""Win rate, or return where winning means nothing, over environment steps: a line a run, a table of the last values.

python analysis/learning_curve.py RUN.h5 [RUN2.h5 ...] [--plot FILE.png] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from runfile import Run, RunFileError, open_run

MEASURES = {"win_rate": "win rate", "return_mean": "return", "return": "return"}  # the first with values is taken
WIDTH = 120  # where the output is no terminal


@dataclass(frozen=True)
class Curve:
    """One run's curve. source: evaluations (greedy, held-out episodes) or training (as it learned)."""

    path: str
    env: str
    algo: str
    exp: str
    seed: str
    source: str
    measure: str
    steps: list[int]
    values: list[float]

    @property
    def group(self) -> str:
        return "/".join((self.env, self.algo, self.exp))


def curve(run: Run) -> Curve:
    """Evaluations if there are any, else training. Without either the curve is empty. Raises RunFileError."""
    for source in ("evaluations", "training"):
        table = run.table(source)
        for column, measure in MEASURES.items():
            values = table.get(column, np.zeros(0)).astype(np.float64)
            known = np.isfinite(values) & (values >= 0 if measure == "win rate" else True)
            if known.any() and "step" in table:
                steps = [int(step) for step in table["step"][known]]
                return Curve(*_names(run), source, measure, steps, [float(value) for value in values[known]])
    return Curve(*_names(run), "none", "none", [], [])


def _names(run: Run) -> tuple[str, str, str, str, str]:
    return str(run.path), run.env, run.algo, run.exp, run.seed


def groups(curves: list[Curve]) -> dict[str, list[Curve]]:
    """Runs that differ in nothing but the seed, by env/algo/exp."""
    found: dict[str, list[Curve]] = {}
    for item in sorted(curves, key=lambda c: (c.group, c.seed)):
        found.setdefault(item.group, []).append(item)
    return found


def show(curves: list[Curve], console: Console) -> None:
    """Print the table of last and best values, with each group's mean."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("env/algo/exp", "seed", "of", "measure", "points", "steps", "last", "best"):
        table.add_column(name, justify="left" if name in ("env/algo/exp", "of", "measure") else "right")
    for name, members in groups(curves).items():
        for item in members:
            table.add_row(name, item.seed, item.source, item.measure, *_figures(item))
        last = [item.values[-1] for item in members if item.values]
        if len(last) > 1 and len({item.measure for item in members}) == 1:
            spread = f"{np.mean(last):.3f} ({min(last):.3f} to {max(last):.3f})"
            table.add_row(name, "mean", members[0].source, members[0].measure, "", "", spread, "")
        table.add_section()
    console.print(table)
    for item in curves:
        if not item.values:
            console.print(f"{item.path}: no evaluations and no training values were recorded in this run", markup=False)


def _figures(item: Curve) -> tuple[str, str, str, str]:
    if not item.values:
        return "0", "-", "-", "-"
    return f"{len(item.values)}", f"{item.steps[-1]:,}", f"{item.values[-1]:.3f}", f"{max(item.values):.3f}"


def plot(curves: list[Curve], target: Path) -> None:
    """A line a run, a colour a group, a panel a measure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    drawn = [item for item in curves if item.values]
    measures = sorted({item.measure for item in drawn}) or ["win rate"]
    figure = Figure(figsize=(8, 4 * len(measures)), layout="constrained")
    panels = figure.subplots(len(measures), squeeze=False)[:, 0]
    for number, (name, members) in enumerate(groups(drawn).items()):
        for k, item in enumerate(members):
            axes = panels[measures.index(item.measure)]
            label = f"{name} ({len(members)} run{'s' * (len(members) > 1)})" if k == 0 else None
            axes.plot(item.steps, item.values, color=f"C{number}", alpha=0.8, label=label)
    for axes, measure in zip(panels, measures, strict=True):
        axes.set(xlabel="environment steps", ylabel=measure, **({"ylim": (0, 1)} if measure == "win rate" else {}))
        if axes.lines:
            axes.legend()
    figure.savefig(target, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 2 where a file can't be read or written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN.h5")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curves")
    parser.add_argument("--json", action="store_true", help="print the curves as JSON instead of the table")
    args = parser.parse_args(arguments)
    try:
        curves = [curve(open_run(path)) for path in args.runs]
        if args.json:
            print(json.dumps([asdict(item) for item in curves], indent=2))
        else:
            show(curves, Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False))
        if args.plot:
            plot(curves, args.plot)
    except (RunFileError, OSError) as error:
        print(f"learning_curve: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
