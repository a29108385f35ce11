"""Which split and codec for these hosts and this link? An estimate from measured parts; and how far off it was.

    sde-harl estimate CONFIG.yaml [key=value ...] --rate-mbit 72 --rtt-ms 4 [--device-factor 8]
    sde-harl estimate --measured SWEEP_FOLDER|RUN.h5 [...] --rate-mbit 72 --rtt-ms 4 --against RUN.h5

The parts of every split (local net, coder, decoder, group nets and heads) are timed here, on this host, with nets that
have learnt nothing; or taken from the records of runs (--measured), where bytes are those of learnt policies. A message
of E decisions then takes, with N agents each on a device and a link of its own:

    device  = device factor x (local net + coding)
    link    = round-trip time + 8 x (what goes up + what comes down) / rate       (our headers in, MPI's and TCP's not)
    server  = N x decoding + group nets and heads                                 (all agents' messages come together)
    latency = device + link + server

A policy that is whole on its device takes the device's time alone. E is train.envs / train.slots. Not in it: a medium
that devices share, lost frames, processors that others use. --against says what that came to. The plan knows nothing of
what a policy earns: that is a sweep's to tell (sde-harl sweep).
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
from sde_harl.record.reader import run_files

ACTION_BYTES = 4
"""What comes down for a decision: an action of one number."""
WIDTH = 120  # where the output is no terminal


class Link(NamedTuple):
    """Between the server and one device."""

    rate_mbit: float
    rtt_ms: float


class CostEstimate(NamedTuple):
    """What a message is expected to take, in microseconds, and to send."""

    device_us: float
    link_us: float
    server_us: float
    up_bytes: float
    """Payload of one decision."""
    rows: int

    @property
    def latency_us(self) -> float:
        return self.device_us + self.link_us + self.server_us

    @property
    def device_us_per_decision(self) -> float:
        return self.device_us / self.rows


OBJECTIVES: dict[str, Callable[[CostEstimate], float]] = {
    "latency": lambda estimate: estimate.latency_us,
    "device": lambda estimate: estimate.device_us_per_decision,
    "bytes": lambda estimate: estimate.up_bytes,
}


def predict(part: PolicyCost, link: Link, device_factor: float) -> CostEstimate:
    """The sums above."""
    device, up = device_factor * (part.local_us + part.encode_us), part.payload_bytes / part.rows
    if part.codec == "none":
        return CostEstimate(device, 0.0, 0.0, up, part.rows)
    moved = part.payload_bytes + ACTION_BYTES * part.rows + 2 * OVERHEAD
    on_link = (
        1000.0 * link.rtt_ms + 8.0 * moved / link.rate_mbit
    )  # bits over Mbit/s are microseconds
    return CostEstimate(
        device, on_link, part.agents * part.decode_us + part.policy_us, up, part.rows
    )


def pick(estimates: dict[PolicyCost, CostEstimate], objective: str) -> PolicyCost:
    """The least; of equals, the one with fewer blocks on the device."""
    return min(
        estimates, key=lambda part: (OBJECTIVES[objective](estimates[part]), part.local_blocks)
    )


def errors(estimate: CostEstimate, seen: MeasuredRun) -> list[tuple[str, float, float]]:
    """What was predicted and what the run measured, by name; link and server together are its round trip."""
    return [
        ("device us", estimate.device_us, seen.device_us),
        ("link and server us", estimate.link_us + estimate.server_us, seen.round_trip_us),
        ("latency us", estimate.latency_us, seen.whole_us),
        ("payload B a decision", estimate.up_bytes, seen.payload_bytes / estimate.rows),
    ]


def candidates(paths: list[Path], words: list[str]) -> list[PolicyCost]:
    """From runs, or measured here by a configuration. Raises UserError where both or neither are given."""
    if bool(paths) == bool(words):
        raise UserError(
            "give a configuration to measure here, or --measured and runs; --help tells more"
        )
    if paths:
        return [from_run(file)[0] for path in paths for file in run_files(path)]
    config = parse(words).config
    if config is None:
        raise UserError("--print-config: a plan has nothing to show of it")
    from sde_harl.envs.registry import make

    env = make(config.env, num_envs=config.train.envs // config.train.slots, seed=config.seed)
    try:
        parts = measure(config, env.spec)
        return list(
            track(parts, "measuring", count(config), console=Console(stderr=True), transient=True)
        )
    finally:
        env.close()


def show(
    estimates: dict[PolicyCost, CostEstimate], chosen: PolicyCost, objective: str, console: Console
) -> None:
    """A line a candidate."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title="ESTIMATE, not a measurement",
        title_justify="left",
        title_style="",
    )
    for name in (
        "local",
        "codec",
        "device us",
        "link us",
        "server us",
        "latency us",
        "up B/dec",
        "device us/dec",
        "",
    ):
        table.add_column(name, justify="left" if name in ("codec", "") else "right")
    for part, each in estimates.items():
        times = (each.device_us, each.link_us, each.server_us, each.latency_us)
        rest = (f"{each.up_bytes:.1f}", f"{each.device_us_per_decision:,.0f}")
        mark = f"<- least {objective}" if part is chosen else ""
        table.add_row(
            f"{part.local_blocks}", part.codec, *(f"{value:,.0f}" for value in times), *rest, mark
        )
    console.print(table)
    rows = ", ".join(sorted({f"{part.rows}" for part in estimates}))
    console.print(
        f"  times are of a message of {rows} decision(s); /dec: for one decision of one agent"
    )


def show_errors(estimate: CostEstimate, seen: MeasuredRun, path: Path, console: Console) -> None:
    """How far the plan was from the run."""
    table = Table(
        box=box.SIMPLE_HEAD, title=f"against {path}", title_justify="left", title_style=""
    )
    for name in ("", "estimate", "measured", "error"):
        table.add_column(name, justify="right" if name else "left")
    for name, expected, measured in errors(estimate, seen):
        error = f"{expected / measured - 1:+.0%}" if measured else "-"
        table.add_row(name, f"{expected:,.1f}", f"{measured:,.1f}", error)
    console.print(table)


def against(
    path: Path, estimates: dict[PolicyCost, CostEstimate]
) -> tuple[CostEstimate, MeasuredRun]:
    """The estimate of a run's own split, and what it measured. Raises UserError where there is none like it."""
    part, seen = from_run(path)
    alike = (part.local_blocks, part.codec, part.rows)
    for each, estimate in estimates.items():
        if (each.local_blocks, each.codec, each.rows) == alike:
            return estimate, seen
    what = f"{part.local_blocks} local blocks, {part.codec}, {part.rows} decisions a message"
    raise UserError(
        f"{path}: the plan has nothing like it ({what}); train.envs sets the decisions a message"
    )


def main(argv: list[str]) -> int:
    """Reads the command line, estimates and prints. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="sde-harl estimate",
        usage="%(prog)s CONFIG.yaml [key=value ...] --rate-mbit MBIT --rtt-ms MS [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--rate-mbit", type=_positive, required=True, metavar="MBIT", help="a device's link, Mbit/s"
    )
    parser.add_argument(
        "--rtt-ms",
        type=_positive,
        required=True,
        metavar="MS",
        help="its round-trip time when idle",
    )
    help_text = "how many times as slow as the measured host a device is (1)"
    parser.add_argument("--device-factor", type=_positive, default=1.0, metavar="X", help=help_text)
    parser.add_argument(
        "--objective", choices=OBJECTIVES, default="latency", help="what shall be least (latency)"
    )
    parser.add_argument(
        "--measured",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN.h5",
        help="take parts from runs",
    )
    parser.add_argument(
        "--against", type=Path, metavar="RUN.h5", help="show how far the estimate is from this run"
    )
    options, words = parser.parse_known_args(argv)
    link = Link(options.rate_mbit, options.rtt_ms)
    parts = candidates(options.measured, words)
    estimates = {part: predict(part, link, options.device_factor) for part in parts}
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    show(estimates, pick(estimates, options.objective), options.objective, console)
    if options.against:
        show_errors(*against(options.against, estimates), options.against, console)
    return ExitCode.DONE


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value
