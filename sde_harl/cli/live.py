"""Shows how a run stands, in this terminal or as a page in a browser.

    sde-harl live RUN            # in this terminal, until Ctrl-C
    sde-harl live RUN --web      # at http://127.0.0.1:8765/
    sde-harl live RUN --once     # prints it once, as a script wants it

A RUN is a run.h5, a run's folder, or `latest`. Its files are read and never written. With --host
other than this machine's own 127.0.0.1, the address that is printed has a token that visitors need.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sde_harl.analysis.tables import new_table
from sde_harl.errors import ExitCode, UserError
from sde_harl.live.state import State, planned_steps, read_state
from sde_harl.live.tables import AGENTS, NOTE, agent_cells, fault_line, progress_line, warning
from sde_harl.live.web import Server
from sde_harl.outside.text import printable
from sde_harl.record.finding import run_files
from sde_harl.record.reader import Run, open_run
from sde_harl.record.terminal import PlainConsole

EVERY_S = 2.0
PORT = 8765
BAR = 60
WIDTH = 100  # where the output is no terminal


def picture(state: State) -> RenderableType:
    """Returns what the terminal shows of a state."""
    results = new_table(state.results)
    results.add_row(*state.results.values())
    agents = new_table(AGENTS, left=("agent", "link"), narrow=True)
    for each in state.agents:
        agents.add_row(*agent_cells(each))
    lines = [state.title, progress_line(state)]
    below = [NOTE, fault_line(state), state.folder]
    shown: list[RenderableType] = [_text(line) for line in lines]
    # In a grid: a bar by itself ends no line.
    bar = Table.grid()
    bar.add_row(ProgressBar(total=1.0, completed=state.share, width=BAR))
    shown.append(bar)
    if warning(state):
        shown.append(_text(warning(state)))
    shown += [results, agents]
    return Group(*shown, *(_text(line) for line in below))


def _text(line: str) -> Text:
    return Text(printable(line))


def one_run(given: Path) -> Run:
    """Returns the run that a path means. Raises UserError where it means none, or several."""
    files = run_files(given)
    if len(files) != 1:
        raise UserError(
            f"RUN: expected one run, got {len(files)} in {given}; `latest` is the newest"
        )
    return open_run(files[0])


def watch(run: Run, console: Console) -> None:
    """Shows the run in this terminal until it is done, or until Ctrl-C."""
    planned = planned_steps(run)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            try:
                state = read_state(run, planned)
            # The writer was at work at the place that was read: it will have moved on next time.
            except UserError as error:
                live.update(_text(f"the record can't be read just now: {error}"), refresh=True)
            else:
                live.update(picture(state), refresh=True)
                if state.phase == "done":
                    return
            time.sleep(EVERY_S)


def serve(run: Run, host: str, port: int) -> None:
    """Serves the page until Ctrl-C. Raises UserError where the port can't be had."""
    planned = planned_steps(run)
    with Server(host, port, lambda: read_state(run, planned)) as server:
        print(f"open {server.url} (Ctrl-C ends this, not the run)", flush=True)
        server.serve_forever()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sde-harl live",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the run to look at")
    parser.add_argument("--once", action="store_true", help="print the state once")
    parser.add_argument("--web", action="store_true", help="serve a page instead")
    parser.add_argument("--host", default="127.0.0.1", help="of the page (127.0.0.1)")
    parser.add_argument("--port", type=int, default=PORT, help=f"of the page ({PORT})")
    return parser


def main(argv: list[str]) -> int:
    """Shows the run. Returns the exit code."""
    options = _parser().parse_args(argv)
    run = one_run(options.run)
    # Ctrl-C is how one leaves; the run goes on.
    with contextlib.suppress(KeyboardInterrupt):
        if options.web:
            serve(run, options.host, options.port)
        elif options.once or not sys.stdout.isatty():
            state = read_state(run, planned_steps(run))
            PlainConsole(width=WIDTH).print(picture(state))
        else:
            watch(run, PlainConsole())
    return ExitCode.DONE
