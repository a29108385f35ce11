"""Writes a report of runs as one page: what was learnt, what it cost, and what ran where.

    sde-harl report RUN [RUN2 ...] [--out report.html]

A RUN is a run.h5, the folder of a run, of a sweep or of an experiment, a pattern in quotes, or
`latest`. The page needs no network and no other file. Runs that differ in nothing but the seed are
one line in it; all others stand apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sde_harl.analysis.each_run import NONSENSE
from sde_harl.errors import ExitCode, UserError
from sde_harl.record.finding import all_run_files
from sde_harl.record.reader import open_run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sde-harl report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="what to report on")
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="(report.html)"
    )
    return parser


def main(argv: list[str]) -> int:
    """Writes the page and says where. Returns the exit code."""
    options = _parser().parse_args(argv)
    files = all_run_files(options.runs)
    runs = [open_run(file) for file in files]
    # Imported here: matplotlib and scipy take seconds, and a wrong name is told before.
    from sde_harl.report.build import build

    try:
        page = build(runs)
    except NONSENSE as error:
        names = ", ".join(str(file) for file in files)
        raise UserError(f"{names}: can't be shown: {error}") from error
    replaces = ", in place of an older file" if options.out.exists() else ""
    try:
        options.out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out: {options.out}: can't be written: {error.strerror}") from error
    size = f"{len(page.encode()) / 1e6:.2f} MB"
    print(f"wrote {options.out} ({size}{replaces}): open it in a browser")
    return ExitCode.DONE
