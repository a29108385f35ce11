"""Before a run: is every host of a hostfile there, and fit for it? `sde-harl doctor HOSTFILE`

Asks each host the way a run would, with an mpirun from the first host to it, and prints a table and what is wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from sde_harl.cli.probe import MARK, Host, Probe, from_json
from sde_harl.errors import ExitCode, UserError

AT_ONCE = 4  # mpiruns side by side
LINE = re.compile(r"(?P<name>[\w.:-]+)(\s+(slots|max_slots)\s*=\s*\d+)*")
MIXED = "add to mpirun: --pmixmca gds hash --mca pml ob1 --mca btl tcp,self"
CLOCK_S = 1.0
COLUMNS = ("host", "arch", "cores", "memory", "Open MPI", "sde_harl", "python", "numpy", "interface", "round trip us",
           "clock ms", "coder")  # fmt: skip


class Unreached(NamedTuple):
    """Why a host could not be asked."""

    reason: str


class Finding(NamedTuple):
    """Something about a host; an error keeps a run from going well, a warning may."""

    level: str
    host: str
    text: str


Answers = dict[str, "Probe | Unreached"]
"""By the hostfile's names; the first is the server's."""


def read_hosts(path: Path) -> list[str]:
    """Names in a hostfile's order, each once. Raises UserError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't read the hostfile: {error}") from error
    names: dict[str, None] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        found = LINE.fullmatch(text)
        if text and not found:
            raise UserError(f"{path}:{number}: expected NAME slots=N, got {text[:60]!r}")
        if found:
            names[found["name"]] = None
    if not names:
        raise UserError(f"{path}: no hosts")
    return [*names]


def ask(server: str, host: str, options: list[str], timeout_s: float) -> Probe | Unreached:
    """What `host` says through an mpirun from `server`, which is killed if it takes longer."""
    launcher = shutil.which(
        "mpirun", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    )
    if not launcher:
        raise UserError("mpirun is not installed")
    pair = [server] if host == server else [server, host]
    hosts = ",".join(f"{name}:1" for name in pair)
    command = [
        launcher,
        *options,
        "-np",
        str(len(pair)),
        "--host",
        hosts,
        sys.executable,
        "-m",
        "sde_harl.cli.probe",
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # a launch that failed may ignore SIGTERM
        process.communicate()
        return Unreached(
            f"no answer in {timeout_s:g} s: is it on, reachable by ssh, and not behind a firewall?"
        )
    said = [line[len(MARK) :] for line in out.splitlines() if line.startswith(MARK)]
    try:
        return from_json(said[-1])
    except (IndexError, ValueError):
        return Unreached(
            f"mpirun ended with {process.returncode}: {_first_words(err) or 'and said nothing'}"
        )


def _first_words(text: str) -> str:
    """The first line of mpirun's that is more than a rule."""
    lines = (line.strip() for line in text.splitlines())
    return next((line[:160] for line in lines if line.strip("-")), "")


def examine(answers: Answers) -> list[Finding]:
    """What is wrong with these hosts, beside the first."""
    reached = {name: answer for name, answer in answers.items() if isinstance(answer, Probe)}
    findings = [
        Finding("error", name, each.reason)
        for name, each in answers.items()
        if isinstance(each, Unreached)
    ]
    if not reached:
        return findings
    first = next(iter(reached.values())).server
    for name, probe in reached.items():
        findings += [Finding(level, name, text) for level, text in _faults(probe, first)]
    return findings


def _faults(probe: Probe, first: Host) -> Iterable[tuple[str, str]]:
    host = probe.host
    for what, theirs, ours in (
        ("sde_harl", host.package, first.package),
        ("Open MPI", host.mpi, first.mpi),
    ):
        if theirs != ours:
            yield "error", f"{what} is {theirs}, on {first.host} {ours}: install the same"
    if not host.coder:
        yield (
            "error",
            "its rANS coder makes other bytes than it must: build it anew (pip install --no-deps -e .)",
        )
    if host.arch != first.arch:
        yield "warning", f"{host.arch} beside {first.arch}: {MIXED}"
    if host.bridges and not host.chosen:
        names = ", ".join(host.bridges)
        yield (
            "warning",
            f"MPI may take {names} for the network, and hang: --mca btl_tcp_if_include NETWORK/BITS",
        )
    if abs(probe.clock_s) > CLOCK_S:
        yield (
            "warning",
            f"its clock is {probe.clock_s:+.1f} s off: times in its logs will mislead, measurements won't",
        )


def table(answers: Answers) -> Table:
    """A line a host."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in COLUMNS:
        made.add_column(
            name,
            justify="right" if name in ("cores", "memory", "round trip us", "clock ms") else "left",
        )
    for name, answer in answers.items():
        made.add_row(
            *(_cells(answers, name, answer) if isinstance(answer, Probe) else [name, "no answer"])
        )
    return made


def _cells(answers: Answers, name: str, probe: Probe) -> list[str]:
    host, apart = probe.host, probe.round_trip_us > 0
    interfaces = host.interfaces
    if not apart:  # what it talks over shows in what it is asked for about the others
        others = (each.server.interfaces for each in answers.values() if isinstance(each, Probe))
        interfaces = sorted({interface for each in others for interface in each})
    link = [f"{probe.round_trip_us:,.0f}", f"{probe.clock_s * 1e3:+.1f}"] if apart else ["-", "-"]
    return [
        name, host.arch, str(host.cores), f"{host.memory_bytes / 1e9:.1f} GB", host.mpi.replace("Open MPI v", ""),
        host.package, host.python, host.numpy, ", ".join(interfaces) or "none (one host)", *link,
        "good" if host.coder else "BAD",
    ]  # fmt: skip


def energy(answers: Answers) -> list[str]:
    """What hosts' sensors cover, or why there are none; hosts that say the same share a line."""
    said: dict[str, list[str]] = {}
    for name, answer in answers.items():
        if isinstance(answer, Probe):
            for text in (
                f"energy: {answer.host.energy}",
                f"GPU's energy: {answer.host.gpu_energy}",
            ):
                said.setdefault(text, []).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in said.items()]


def diagnose(
    names: list[str], question: Callable[[str], Probe | Unreached], console: Console
) -> int:
    """Ask every host, print the table and the findings; the exit code."""
    with ThreadPoolExecutor(AT_ONCE) as pool, console.status(f"asking {len(names)} hosts"):
        answers: Answers = dict(zip(names, pool.map(question, names)))
    findings = examine(answers)
    console.print(table(answers))
    for line in energy(answers):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for level, host, text in findings:
        console.print(f"{level}: {host}: {text}", markup=False, highlight=False, soft_wrap=True)
    bad = {finding.host for finding in findings if finding.level == "error"}
    console.print(
        f"{len(names) - len(bad)} of {len(names)} hosts are fit for a run", highlight=False
    )
    return ExitCode.USER_ERROR if bad else ExitCode.DONE


def main(argv: list[str]) -> int:
    """Returns the exit code: 0 where a run can start, 2 where something has to be mended first."""
    parser = argparse.ArgumentParser(prog="sde-harl doctor", description=__doc__)
    parser.add_argument("hostfile", type=Path, metavar="HOSTFILE")
    parser.epilog = (
        "What stands behind -- is given to mpirun: -- --mca btl_tcp_if_include 192.168.1.0/24"
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="for each host (30)"
    )
    at = argv.index("--") if "--" in argv else len(argv)
    args, options = parser.parse_args(argv[:at]), argv[at + 1 :]
    names = read_hosts(args.hostfile)
    console = Console(width=None if sys.stdout.isatty() else 170)
    return diagnose(names, lambda host: ask(names[0], host, options, args.timeout), console)
