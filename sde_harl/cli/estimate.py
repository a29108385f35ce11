"""Estimates what each split and codec of a policy costs on other hosts and another link.

    sde-harl estimate EXPERIMENT [key=value ...] --rate-mbit 72 --rtt-ms 4 [--device-factor 8]
    sde-harl estimate --measured SWEEP_FOLDER|RUN.h5 [...] --rate-mbit 72 --rtt-ms 4

The parts of each split (local net, coder, decoder, group nets, heads) are timed here, on this host,
with untrained nets. With --measured they are taken from records of runs, so that the bytes are
those of trained policies. A message holds E decisions, E = train.envs / train.slots. With N agents,
each on a device with a link of its own, it takes:

    device  = device factor x (local net + coding)
    link    = round-trip time + 8 x (bytes up + bytes down) / rate   (with our headers, not MPI's)
    server  = N x decoding + group nets and heads                    (all messages come together)
    latency = device + link + server

A policy that runs entirely on its device takes the device's time alone. The estimate leaves out a
medium that devices share, lost frames, and processors that others use: --against RUN.h5 shows how
far off it was. It says nothing about what a policy wins: for that, run a sweep (sde-harl sweep).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sde_harl.cli.policy_cost import MeasuredRun, PolicyCost, count, from_run, measure
from sde_harl.config.arguments import parse
from sde_harl.errors import ExitCode, UserError
from sde_harl.link.wire import OVERHEAD
from sde_harl.record.finding import all_run_files
from sde_harl.record.terminal import PlainConsole

ACTION_BYTES = 4
"""Bytes sent down for a decision: an action of one number."""
WIDTH = 120  # of the tables where the output is no terminal


class Link(NamedTuple):
    """The link between the server and one device."""

    rate_mbit: float
    rtt_ms: float


class CostEstimate(NamedTuple):
    """The expected cost of a message."""

    device_us: float
    link_us: float
    server_us: float
    up_bytes: float
    """Payload of one decision."""
    rows: int
    """Decisions in a message."""

    @property
    def latency_us(self) -> float:
        return self.device_us + self.link_us + self.server_us

    @property
    def device_us_per_decision(self) -> float:
        return self.device_us / self.rows


Estimates = dict[PolicyCost, CostEstimate]

OBJECTIVES: dict[str, Callable[[CostEstimate], float]] = {
    "latency": lambda estimate: estimate.latency_us,
    "device": lambda estimate: estimate.device_us_per_decision,
    "bytes": lambda estimate: estimate.up_bytes,
}


class Comparison(NamedTuple):
    """One figure of a run beside its estimate."""

    name: str
    estimate: float
    measured: float


def predict(part: PolicyCost, link: Link, device_factor: float) -> CostEstimate:
    """Returns the estimate of one split, by the sums at the top of this file."""
    link_us = 0.0
    server_us = 0.0
    if part.codec != "none":
        moved = part.payload_bytes + ACTION_BYTES * part.rows + 2 * OVERHEAD
        # Bits over Mbit/s are microseconds.
        link_us = 1000.0 * link.rtt_ms + 8.0 * moved / link.rate_mbit
        server_us = part.agents * part.decode_us + part.policy_us
    return CostEstimate(
        device_us=device_factor * (part.local_us + part.encode_us),
        link_us=link_us,
        server_us=server_us,
        up_bytes=part.payload_bytes / part.rows,
        rows=part.rows,
    )


def pick(estimates: Estimates, objective: str) -> PolicyCost:
    """Returns the split with the least cost. Of equals, the one with fewer blocks on the device."""
    cost = OBJECTIVES[objective]
    return min(estimates, key=lambda part: (cost(estimates[part]), part.local_blocks))


def errors(estimate: CostEstimate, seen: MeasuredRun) -> list[Comparison]:
    """Returns the figures of an estimate beside those of the run."""
    on_link_us = estimate.link_us + estimate.server_us
    payload = seen.payload_bytes / estimate.rows
    return [
        Comparison(name="device us", estimate=estimate.device_us, measured=seen.device_us),
        # A run can't tell the link from the server: it measures the round trip.
        Comparison(name="link and server us", estimate=on_link_us, measured=seen.round_trip_us),
        Comparison(name="latency us", estimate=estimate.latency_us, measured=seen.latency_us),
        Comparison(name="payload B a decision", estimate=estimate.up_bytes, measured=payload),
    ]


def candidates(paths: list[Path], words: list[str]) -> list[PolicyCost]:
    """Returns the splits to compare: from records of runs, or measured here by a configuration.

    Raises UserError where both or neither are given.
    """
    if bool(paths) == bool(words):
        raise UserError(
            "give a configuration to measure here, or --measured and runs; --help tells more"
        )
    if paths:
        return [from_run(file).cost for file in all_run_files(paths)]
    config = parse(words).config
    if config is None:
        raise UserError("--print-config: a plan has nothing to show of it")
    # Imported here, because an environment takes seconds to import and records need none.
    from sde_harl.envs.registry import make

    env = make(config.env, num_envs=config.train.envs // config.train.slots, seed=config.seed)
    try:
        parts = measure(config, env.spec)
        console = PlainConsole(file=sys.stderr)
        return list(track(parts, "measuring", count(config), console=console, transient=True))
    finally:
        env.close()


def show(estimates: Estimates, *, chosen: PolicyCost, objective: str, console: Console) -> None:
    """Prints a table with a line for each split."""
    table = _table("ESTIMATE, not a measurement")
    table.add_column("local", justify="right")
    table.add_column("codec")
    for name in ("device us", "link us", "server us", "latency us", "up B/dec", "device us/dec"):
        table.add_column(name, justify="right")
    table.add_column("")
    for part, estimate in estimates.items():
        mark = ""
        if part is chosen:
            mark = f"<- least {objective}"
        table.add_row(f"{part.local_blocks}", part.codec, *_cells(estimate), mark)
    console.print(table)
    rows = ", ".join(sorted({f"{part.rows}" for part in estimates}))
    console.print(
        f"  times are of a message of {rows} decision(s); /dec: for one decision of one agent"
    )


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="")


def _cells(estimate: CostEstimate) -> list[str]:
    return [
        f"{estimate.device_us:,.0f}",
        f"{estimate.link_us:,.0f}",
        f"{estimate.server_us:,.0f}",
        f"{estimate.latency_us:,.0f}",
        f"{estimate.up_bytes:.1f}",
        f"{estimate.device_us_per_decision:,.0f}",
    ]


def show_errors(estimate: CostEstimate, seen: MeasuredRun, path: Path, console: Console) -> None:
    """Prints how far the estimate is from the run."""
    table = _table(f"against {path}")
    table.add_column("")
    for name in ("estimate", "measured", "error"):
        table.add_column(name, justify="right")
    for name, expected, measured in errors(estimate, seen):
        error = "-"
        if measured:
            error = f"{expected / measured - 1:+.0%}"
        table.add_row(name, f"{expected:,.1f}", f"{measured:,.1f}", error)
    console.print(table)


def against(path: Path, estimates: Estimates) -> tuple[CostEstimate, MeasuredRun]:
    """Returns the estimate of a run's own split, and what the run measured.

    Raises UserError where no estimate has the run's split, codec and decisions in a message.
    """
    part, seen = from_run(path)
    for each, estimate in estimates.items():
        if (each.local_blocks, each.codec, each.rows) == (part.local_blocks, part.codec, part.rows):
            return estimate, seen
    what = f"{part.local_blocks} local blocks, {part.codec}, {part.rows} decisions a message"
    raise UserError(
        f"{path}: the plan has nothing like it ({what}); train.envs sets the decisions a message"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sde-harl estimate",
        usage="%(prog)s EXPERIMENT [key=value ...] --rate-mbit MBIT --rtt-ms MS [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rate-mbit",
        type=_positive,
        required=True,
        metavar="MBIT",
        help="rate of a device's link in Mbit/s",
    )
    parser.add_argument(
        "--rtt-ms",
        type=_positive,
        required=True,
        metavar="MS",
        help="round-trip time of the idle link in milliseconds",
    )
    parser.add_argument(
        "--device-factor",
        type=_positive,
        default=1.0,
        metavar="X",
        help="how many times slower a device is than the measured host (1)",
    )
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="latency",
        help="the cost that should be least (latency)",
    )
    parser.add_argument(
        "--measured",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN.h5",
        help="take the parts from these runs or sweeps",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="RUN.h5",
        help="show how far the estimate is from this run",
    )
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def main(argv: list[str]) -> int:
    """Prints the estimates, and marks the best. Returns the exit code."""
    options, words = _parser().parse_known_args(argv)
    link = Link(rate_mbit=options.rate_mbit, rtt_ms=options.rtt_ms)
    parts = candidates(options.measured, words)
    estimates = {part: predict(part, link, options.device_factor) for part in parts}
    console = PlainConsole(width=WIDTH)
    chosen = pick(estimates, options.objective)
    show(estimates, chosen=chosen, objective=options.objective, console=console)
    if options.against:
        estimate, seen = against(options.against, estimates)
        show_errors(estimate, seen, path=options.against, console=console)
    return ExitCode.DONE
