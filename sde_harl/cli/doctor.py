"""Checks before a run whether each host of a hostfile is there and ready.

    sde-harl doctor [HOSTFILE] [--timeout SECONDS] [-- OPTIONS OF MPIRUN]

Without HOSTFILE this host alone is checked, such as the one that jobs are submitted from. Each host
is asked the way a run would reach it: by an mpirun from the first host to it. Prints a
table of the hosts, and an error or a warning for each problem.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from sde_harl.cli.hostfile import check_launcher, read_hosts
from sde_harl.cli.launcher import advice, environment, find_mpirun
from sde_harl.cli.probe import MARK, Host, Probe, from_json
from sde_harl.cli.slurm_check import slurm_line
from sde_harl.errors import ExitCode, UserError
from sde_harl.outside.text import printable
from sde_harl.record.terminal import PlainConsole

MOST_AT_ONCE = 4  # mpiruns side by side
# With Open MPI's defaults, a job of x86-64 and ARM hosts fails at its start.
MIXED = "add to mpirun: --pmixmca gds hash --mca pml ob1 --mca btl tcp,self"
MOST_CLOCK_S = 1.0
WIDTH = 170  # of the table where the output is no terminal
COLUMNS = (
    "host",
    "arch",
    "cores",
    "memory",
    "Open MPI",
    "sde_harl",
    "python",
    "numpy",
    "interface",
    "round trip us",
    "clock ms",
    "coder",
)
RIGHT = ("cores", "memory", "round trip us", "clock ms")


class Unreached(NamedTuple):
    """A host that could not be asked."""

    reason: str


class Finding(NamedTuple):
    """A problem with a host. An error prevents a run; a warning may not."""

    level: Literal["error", "warning"]
    host: str
    text: str


Answers = dict[str, "Probe | Unreached"]
"""Answers by the names in the hostfile. The first host is the server."""


def ask(server: str, host: str, options: list[str], timeout_s: float) -> Probe | Unreached:
    """Returns what `host` answers through an mpirun from `server`. A slower one is killed."""
    process = subprocess.Popen(
        _command(server, host, options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # a launch that failed may ignore SIGTERM
        process.communicate()
        return Unreached(
            f"no answer in {timeout_s:g} s: is it on, reachable by ssh, and not behind a firewall?"
        )
    # mpirun and a host's shell may print lines of their own.
    marked = [line[len(MARK) :] for line in out.splitlines() if line.startswith(MARK)]
    try:
        return from_json(marked[-1])
    except (IndexError, ValueError):
        cause = _first_words(err) or "and said nothing"
        return Unreached(f"mpirun ended with {process.returncode}: {cause}")


def _command(server: str, host: str, options: list[str]) -> list[str]:
    """Returns the mpirun that probes `host`. Raises UserError where mpirun is not installed."""
    launcher = find_mpirun()
    if not launcher:
        raise UserError("mpirun is not installed")
    names = [server]
    if host != server:
        names.append(host)
    hosts = ",".join(f"{name}:1" for name in names)
    where = ["-np", str(len(names)), "--host", hosts]
    return [launcher, *options, *where, sys.executable, "-m", "sde_harl.cli.probe"]


def _first_words(text: str) -> str:
    """Returns the first line of mpirun's that is more than a rule of dashes."""
    lines = (line.strip() for line in text.splitlines())
    return next((line[:160] for line in lines if line.strip("-")), "")


def examine(answers: Answers) -> list[Finding]:
    """Returns the problems of all hosts. Each is compared with the server."""
    findings: list[Finding] = []
    reached: dict[str, Probe] = {}
    for name, answer in answers.items():
        if isinstance(answer, Unreached):
            findings.append(Finding(level="error", host=name, text=answer.reason))
        else:
            reached[name] = answer
    if not reached:
        return findings
    # Every answer describes the server too, so it is known even where it alone did not answer.
    server = next(iter(reached.values())).server
    for name, probe in reached.items():
        findings += _version_errors(name, host=probe.host, server=server)
        findings += _warnings(name, probe=probe, server=server)
    return findings


def _version_errors(name: str, *, host: Host, server: Host) -> Iterator[Finding]:
    versions = (
        ("sde_harl", host.package, server.package),
        ("Open MPI", host.mpi, server.mpi),
    )
    for what, theirs, ours in versions:
        if theirs != ours:
            text = f"{what} is {theirs}, on {server.host} {ours}: install the same"
            yield Finding(level="error", host=name, text=text)
    if not host.coder:
        text = (
            "its rANS coder makes other bytes than it must: build it anew"
            " (pip install --no-deps -e .)"
        )
        yield Finding(level="error", host=name, text=text)


def _warnings(name: str, *, probe: Probe, server: Host) -> Iterator[Finding]:
    host = probe.host
    if host.arch != server.arch:
        yield Finding(level="warning", host=name, text=f"{host.arch} beside {server.arch}: {MIXED}")
    if host.bridges and not host.chosen:
        text = (
            f"MPI may take {', '.join(host.bridges)} for the network, and hang:"
            " --mca btl_tcp_if_include NETWORK/BITS"
        )
        yield Finding(level="warning", host=name, text=text)
    if abs(probe.clock_s) > MOST_CLOCK_S:
        # Durations are always measured on one host, so they stay right.
        text = (
            f"its clock is {probe.clock_s:+.1f} s off: times in its logs will mislead,"
            " measurements won't"
        )
        yield Finding(level="warning", host=name, text=text)


def table(answers: Answers) -> Table:
    """Returns a table with a line for each host."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        if name in RIGHT:
            made.add_column(name, justify="right")
        else:
            made.add_column(name)
    for name, answer in answers.items():
        if isinstance(answer, Unreached):
            made.add_row(name, "no answer")
        else:
            made.add_row(*_cells(answers, name, answer))
    return made


def _cells(answers: Answers, name: str, probe: Probe) -> list[str]:
    """Returns the line of a host that answered, in the order of COLUMNS."""
    host = probe.host
    round_trip = "-"
    clock = "-"
    if probe.round_trip_us > 0:  # 0 for the server itself
        round_trip = f"{probe.round_trip_us:,.0f}"
        clock = f"{probe.clock_s * 1e3:+.1f}"
    coder = "BAD"
    if host.coder:
        coder = "good"
    return [
        name,
        host.arch,
        str(host.cores),
        f"{host.memory_bytes / 1e9:.1f} GB",
        host.mpi.replace("Open MPI v", ""),
        host.package,
        host.python,
        host.numpy,
        ", ".join(_interfaces(answers, probe)) or "none (one host)",
        round_trip,
        clock,
        coder,
    ]


def _interfaces(answers: Answers, probe: Probe) -> list[str]:
    """Returns the network interfaces that a host used."""
    if probe.round_trip_us > 0:
        return probe.host.interfaces
    # The server talks to nobody when it is asked about itself: take what it used with the others.
    others = (each.server.interfaces for each in answers.values() if isinstance(each, Probe))
    return sorted({interface for each in others for interface in each})


def energy(answers: Answers) -> list[str]:
    """Returns what the hosts' energy sensors cover, or why not. Equal hosts share a line."""
    hosts: dict[str, list[str]] = {}
    for name, answer in answers.items():
        if isinstance(answer, Probe):
            hosts.setdefault(f"energy: {answer.host.energy}", []).append(name)
            hosts.setdefault(f"GPU's energy: {answer.host.gpu_energy}", []).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in hosts.items()]


def diagnose(
    names: list[str], question: Callable[[str], Probe | Unreached], console: Console
) -> int:
    """Asks every host, prints the table and the problems, and returns the exit code."""
    with ThreadPoolExecutor(MOST_AT_ONCE) as pool, console.status(f"asking {len(names)} hosts"):
        answers: Answers = dict(zip(names, pool.map(question, names)))
    findings = examine(answers)
    console.print(table(answers))
    lines = energy(answers)
    lines += [f"{level}: {host}: {text}" for level, host, text in findings]
    for line in lines:
        # Texts of other hosts: each stays on its line.
        console.print(printable(line), soft_wrap=True)
    for line in (slurm_line(), advice()):
        if line:
            console.print(line, soft_wrap=True)
    bad = {finding.host for finding in findings if finding.level == "error"}
    ready = len(names) - len(bad)
    console.print(f"{ready} of {len(names)} hosts are fit for a run")
    if bad:
        return ExitCode.USER_ERROR
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sde-harl doctor",
        usage="%(prog)s [HOSTFILE] [--timeout SECONDS] [-- OPTIONS OF MPIRUN]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: sde-harl doctor HOSTFILE -- --mca btl_tcp_if_include 192.168.1.0/24",
    )
    parser.add_argument(
        "hostfile", nargs="?", type=Path, metavar="HOSTFILE", help="one host a line (localhost)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long to wait for each host (30)",
    )
    return parser


def main(argv: list[str]) -> int:
    """Checks the hosts. Returns the exit code: 0 if a run can start, 2 if there is an error."""
    ours = argv
    options: list[str] = []
    if "--" in argv:
        at = argv.index("--")
        ours = argv[:at]
        options = argv[at + 1 :]
    args = _parser().parse_args(ours)
    names = ["localhost"]
    if args.hostfile:
        names = read_hosts(args.hostfile)
    check_launcher(options, "sde-harl doctor -- ...")

    def question(host: str) -> Probe | Unreached:
        return ask(names[0], host, options, timeout_s=args.timeout)

    return diagnose(names, question, PlainConsole(width=WIDTH))
