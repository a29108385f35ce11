"""Ends submitted runs: those that run save themselves first, and none goes back into the queue.

    sde-harl cancel FOLDER [RUN ...]

FOLDER is <record.dir>/jobs/<record.exp>, as sde-harl submit prints it. RUN is the name of a run as
sde-harl status shows it; without one, all of the folder are ended. To go on with them, type the
command that submitted them again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sde_harl.cli.job_folder import ALONE
from sde_harl.cli.status import job_folders
from sde_harl.errors import ExitCode, UserError
from sde_harl.slurm import commands


def main(argv: list[str]) -> int:
    """Ends the runs, and says how many."""
    parser = argparse.ArgumentParser(
        prog="sde-harl cancel",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of sde-harl submit")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="as sde-harl status shows them")
    options = parser.parse_args(argv)
    [folder] = job_folders([options.folder])
    submitted = {run.name or ALONE: run for run in folder.submitted()}
    for name in options.runs:
        if name not in submitted:
            raise UserError(f"{name}: no such run; there are: {', '.join(submitted)}")
    queue = commands.queue()
    chosen = [submitted[name] for name in options.runs or submitted]
    found = [queued for queued in (run.find(queue) for run in chosen) if queued]
    commands.stop(found)
    print(f"{len(found)} of {len(chosen)} runs ended; the others had ended before")
    return ExitCode.DONE
