"""The command line `sde-harl COMMAND ...`. Each command is a module with `main(argv) -> exit code`.

A command raises UserError for what the user can correct. It is printed here, once for all commands.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import NamedTuple, NoReturn

from sde_harl import __version__
from sde_harl.errors import ExitCode, UserError
from sde_harl.outside.process import guarded_streams, ignore_stops


class Command(NamedTuple):
    """A command: the module whose `main` runs it, and its line in `sde-harl --help`."""

    module: str
    help: str


# Modules by name, not imported: executors start here too, and must not load what the server needs.
COMMANDS = {
    "run": Command("sde_harl.run", "train or evaluate, in one process or under mpirun"),
    "sweep": Command("sde_harl.cli.sweep", "run every combination of the values you list"),
    "submit": Command("sde_harl.cli.submit", "submit runs to Slurm"),
    "status": Command("sde_harl.cli.status", "show how far submitted runs are"),
    "cancel": Command("sde_harl.cli.cancel", "end submitted runs, after they have saved"),
    "live": Command("sde_harl.cli.live", "show how a run stands, in the terminal or a browser"),
    "report": Command("sde_harl.cli.report", "write what runs learnt and cost as one HTML page"),
    "export": Command("sde_harl.cli.export", "write a record in formats that other programs load"),
    "doctor": Command("sde_harl.cli.doctor", "check whether the hosts of a hostfile are ready"),
    "envs": Command("sde_harl.cli.envs", "list the environments, their maps and their sizes"),
    "play": Command(
        "sde_harl.cli.play", "play a run's policies, print each episode, write a video"
    ),
    "estimate": Command(
        "sde_harl.cli.estimate", "estimate what each split costs on other hosts and another link"
    ),
}


def usage() -> str:
    """Returns the text of `sde-harl --help`."""
    lines = ["usage: sde-harl COMMAND [...]", "", "commands:"]
    lines += [f"  {name:<10} {command.help}" for name, command in COMMANDS.items()]
    lines += [
        "",
        "sde-harl COMMAND --help explains a command; sde-harl --version tells the version.",
    ]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Runs a command and returns its exit code. Prints a UserError as one line."""
    try:
        return _dispatch(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


def _dispatch(argv: list[str]) -> int:
    """Runs the command that `argv` begins with. Raises UserError where there is no such command."""
    if not argv or argv[0] in ("--help", "-h"):
        print(usage())
        return ExitCode.DONE
    name = argv[0]
    if name == "--version":
        print(f"sde_harl {__version__}")
        return ExitCode.DONE
    if name not in COMMANDS:
        raise UserError(f"{name!r}: no such command; there are: {', '.join(COMMANDS)}")
    module = importlib.import_module(COMMANDS[name].module)
    code: int = module.main(argv[1:])
    return code


def entry() -> NoReturn:
    """Runs the console script `sde-harl`."""
    code: int = ExitCode.INTERRUPTED
    # A second Ctrl-C may come while the first one's line is printed, or while this process ends.
    with contextlib.suppress(KeyboardInterrupt), guarded_streams():
        code = main(sys.argv[1:])
    ignore_stops()
    sys.exit(code)
