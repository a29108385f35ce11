"""Holds what the programs in analysis/ have in common: arguments, JSON and one-line errors."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from sde_harl.analysis.each_run import NONSENSE
from sde_harl.errors import ExitCode, UserError
from sde_harl.outside.process import guarded_streams
from sde_harl.outside.text import printable
from sde_harl.record.finding import all_run_files
from sde_harl.record.reader import Run, open_run
from sde_harl.record.terminal import PlainConsole


class Findings(NamedTuple):
    """Holds what a program found, and how it is shown."""

    rows: list[Any]
    """For JSON; NaN is unknown."""
    show: Callable[[Console], None]
    """Prints the tables."""
    plot: Callable[[Path], None]
    """Draws into a PNG file."""


def argument_parser(doc: str | None, *, needs_runs: bool = True) -> argparse.ArgumentParser:
    """Returns a parser for run files; the first line of `doc` describes the program."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument(
        "runs",
        nargs="+" if needs_runs else "*",
        type=Path,
        metavar="RUN.h5",
        help="a run's record or folder, a sweep's, an experiment's, a pattern, or `latest`",
    )
    return parser


def add_figure_options(parser: argparse.ArgumentParser, *, drawn: str, printed: str) -> None:
    """Adds --plot, which draws `drawn`, and --json, which prints `printed`."""
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help=f"draw {drawn}")
    parser.add_argument("--json", action="store_true", help=f"print {printed}")


def run(
    parser: argparse.ArgumentParser, report: Callable[[list[Run], argparse.Namespace], None]
) -> int:
    """Opens the files and reports on them.

    Returns the exit code: 2 where a file can't be read or written, else 0.
    """
    with guarded_streams():
        args = parser.parse_args()
        # OSError too: the targets of --json, --csv and --plot are the user's choice.
        try:
            runs = _open_runs(args.runs)
            report(runs, args)
        except NONSENSE as error:
            names = ", ".join(map(str, args.runs)) or "the references"
            message = printable(f"{names}: can't be shown: {error}")
            print(f"{Path(parser.prog).stem}: {message}", file=sys.stderr)
            return ExitCode.USER_ERROR
        except (UserError, OSError) as error:
            print(f"{Path(parser.prog).stem}: {printable(str(error))}", file=sys.stderr)
            return ExitCode.USER_ERROR
        return ExitCode.DONE


def _open_runs(paths: list[Path]) -> list[Run]:
    # All of them before the first is reported on: an error must not follow half of the output.
    runs = [open_run(file) for file in all_run_files(paths)]
    for each in runs:
        if each.emulated:
            # On stderr, so that it stands beside every kind of output, JSON too.
            print(printable(f"{each.path}: emulated: {each.emulated}"), file=sys.stderr)
    return runs


def run_and_show(
    parser: argparse.ArgumentParser,
    width: int,
    find: Callable[[list[Run], argparse.Namespace], Findings],
) -> int:
    """Runs a program that has the options of `add_figure_options`; returns its exit code.

    width: of the tables, where the output is no terminal.
    """

    def report(runs: list[Run], args: argparse.Namespace) -> None:
        findings = find(runs, args)
        if args.json:
            print(as_json(findings.rows))
        else:
            findings.show(PlainConsole(width=width))
        if args.plot:
            findings.plot(args.plot)

    return run(parser, report)


def as_json(value: Any) -> str:
    """Returns JSON text in which unknown numbers (NaN) are null, as JSON has no NaN."""
    return json.dumps(_without_nan(value), indent=2)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    # json.dumps would write NaN, which most readers of JSON refuse.
    if isinstance(value, float) and math.isnan(value):
        return None
    return value
