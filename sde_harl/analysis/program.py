"""What the programs here have in common: their arguments, tables, JSON and one-line errors."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from sde_harl.errors import UserError
from sde_harl.record.reader import Run, open_run, run_files


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Takes one run file or more; the first line of `doc` says what for."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN.h5",
        help="a run's record, or the folder of a sweep",
    )
    return made


def run(
    options: argparse.ArgumentParser, report: Callable[[list[Run], argparse.Namespace], None]
) -> int:
    """Open the files and report on them. Returns the exit code: 2 where a file can't be read or written."""
    args = options.parse_args()
    try:
        runs = [open_run(file) for path in args.runs for file in run_files(path)]
        for item in runs:
            if item.emulated:  # beside the output, so that no table or JSON goes without
                print(f"{item.path}: emulated: {item.emulated}", file=sys.stderr)
        report(runs, args)
    except (UserError, OSError) as error:
        print(f"{Path(options.prog).stem}: {error}", file=sys.stderr)
        return 2
    return 0


class Findings(NamedTuple):
    """What a program has found."""

    rows: list[Any]
    """As JSON has them; NaN is unknown."""
    show: Callable[[Console], None]
    """Prints them as tables."""
    plot: Callable[[Path], None]
    """Draws them into a PNG file."""


def tell(
    options: argparse.ArgumentParser,
    width: int,
    find: Callable[[list[Run], argparse.Namespace], Findings],
) -> int:
    """Run a program that has options --json and --plot FILE.png (`figure_options`); returns the exit code as `run`."""

    def report(runs: list[Run], args: argparse.Namespace) -> None:
        findings = find(runs, args)
        if args.json:
            print(as_json(findings.rows))
        else:
            findings.show(console(width))
        if args.plot:
            findings.plot(args.plot)

    return run(options, report)


def figure_options(options: argparse.ArgumentParser, drawn: str, printed: str) -> None:
    """--plot, which draws what is `drawn`, and --json, which prints what is `printed`."""
    options.add_argument("--plot", type=Path, metavar="FILE.png", help=f"draw {drawn}")
    options.add_argument("--json", action="store_true", help=f"print {printed}")


def console(width: int) -> Console:
    """For tables; `width` is taken where the output is no terminal."""
    return Console(width=None if sys.stdout.isatty() else width, highlight=False)


def as_json(value: Any) -> str:
    """Unknown (NaN) is null."""
    return json.dumps(_without_nan(value), indent=2)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
