"""Writes what a run recorded, or its policies, in formats that other programs load.

    sde-harl export RUN [RUN2 ...] [--csv DIR] [--marl-eval FILE] [--minari DIR] [--onnx DIR]
        [--trace FILE] [--wandb DIR]

A RUN is a run.h5, the folder of a run, of a sweep or of an experiment, a pattern in quotes, or
`latest`. Only --marl-eval takes more than one. Nothing that exists is written over.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sde_harl.analysis.each_run import NONSENSE
from sde_harl.cli.counting import count
from sde_harl.errors import ExitCode, UserError
from sde_harl.export.csv_tables import write_csv
from sde_harl.export.marl_eval import write_marl_eval
from sde_harl.export.minari import write_minari
from sde_harl.export.trace import write_trace
from sde_harl.export.whole import whole_file, whole_folder
from sde_harl.record.finding import all_run_files
from sde_harl.record.reader import Run, open_run

DECISIONS = 1000
"""Decisions of a trace unless --decisions says otherwise. A browser shows some millions of events;
a decision of eight agents is about 40 of them, and 6 kB."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sde-harl export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="what to export")
    parser.add_argument(
        "--csv", type=Path, metavar="DIR", help="each table as CSV, and schema.json with the units"
    )
    parser.add_argument(
        "--marl-eval", type=Path, metavar="FILE", help="evaluations of all runs, for marl-eval"
    )
    parser.add_argument(
        "--minari", type=Path, metavar="DIR", help="recorded episodes (record.trajectories=eval)"
    )
    parser.add_argument(
        "--onnx", type=Path, metavar="DIR", help="the policies of models/last.pt, for onnxruntime"
    )
    parser.add_argument(
        "--trust", action="store_true", help="run code that the run's config.yaml names (--onnx)"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="stages of decisions, for ui.perfetto.dev"
    )
    parser.add_argument(
        "--wandb",
        type=Path,
        metavar="DIR",
        help="scalars and configuration as an offline run of Weights & Biases; sends nothing",
    )
    parser.add_argument(
        "--decisions",
        type=count,
        default=DECISIONS,
        metavar="N",
        help=f"how many of the last decisions --trace has ({DECISIONS})",
    )
    return parser


def main(argv: list[str]) -> int:
    """Writes each format that is asked for and says where. Returns the exit code."""
    options = _parser().parse_args(argv)
    of_one_run = [options.csv, options.minari, options.onnx, options.trace, options.wandb]
    if not any((*of_one_run, options.marl_eval)):
        raise UserError(
            "export: expected one of --csv, --marl-eval, --minari, --onnx, --trace, --wandb, got"
            " none"
        )
    files = all_run_files(options.runs)
    runs = [open_run(file) for file in files]
    if len(runs) > 1 and any(of_one_run):
        raise UserError(f"RUN: expected one run, or --marl-eval alone, got {len(runs)} runs")
    try:
        _write(options, runs)
    except NONSENSE as error:
        names = ", ".join(str(file) for file in files)
        raise UserError(f"{names}: can't be exported: {error}") from error
    return ExitCode.DONE


def _write(options: argparse.Namespace, runs: Sequence[Run]) -> None:
    run = runs[0]
    if options.csv:
        with whole_folder(options.csv, "--csv") as part:
            write_csv(run, part)
        print(f"wrote {options.csv}: tables as CSV, their units in schema.json")
    if options.marl_eval:
        with whole_file(options.marl_eval, "--marl-eval") as part:
            write_marl_eval(runs, part)
        print(f"wrote {options.marl_eval}: evaluations of {len(runs)} runs, for marl-eval")
    if options.minari:
        with whole_folder(options.minari, "--minari") as part:
            episodes = write_minari(run, part)
        print(
            f"wrote {options.minari}: {episodes} episodes;"
            f' load them with minari.MinariDataset("{options.minari}/data")'
        )
    if options.onnx:
        # Imported here: torch and the environments take seconds, and no other format needs them.
        from sde_harl.cli.export_onnx import export_onnx
        from sde_harl.cli.play import find_run

        with whole_folder(options.onnx, "--onnx") as part:
            export_onnx(find_run(run.path), part, trust=options.trust)
        print(f"wrote {options.onnx}: networks as ONNX, networks.json says what they are")
    if options.trace:
        with whole_file(options.trace, "--trace") as part:
            decisions = write_trace(run, part, most=options.decisions)
        print(f"wrote {options.trace}: {decisions} decisions; open it in ui.perfetto.dev")
    if options.wandb:
        with whole_folder(options.wandb, "--wandb") as part:
            name = _write_wandb(run, part)
        print(
            f"wrote {options.wandb}: scalars and configuration; nothing was sent:"
            f" wandb sync {options.wandb / name}"
        )


def _write_wandb(run: Run, folder: Path) -> Path:
    """Writes an offline run and returns its name in the folder. Raises UserError without wandb."""
    try:
        from sde_harl.export.wandb_run import write_wandb
    except ImportError as error:
        raise UserError("--wandb needs wandb: pip install 'sde_harl[wandb]'") from error
    return write_wandb(run, folder)
