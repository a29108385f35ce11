"""The command `sde-harl`: finds the subcommand's module and runs it with the words that follow."""

from __future__ import annotations

import importlib
import sys
from typing import NamedTuple, NoReturn


class Command(NamedTuple):
    """A subcommand: the module whose `main(argv)` runs it, and one line of help."""

    module: str
    help: str


COMMANDS = {
    "run": Command("sde_harl.run", "train or evaluate, in one process or under mpirun"),
    "sweep": Command("sde_harl.cli.sweep", "run every combination of listed values"),
    "doctor": Command(
        "sde_harl.cli.doctor", "ask the hosts of a hostfile whether they are fit for a run"
    ),
    "estimate": Command(
        "sde_harl.cli.estimate",
        "estimate what each split would cost on other hosts and another link",
    ),
}
"""Subcommands by name. A new one is a module here, with `main(argv) -> exit code`, and one entry."""


def usage() -> str:
    """The text of `sde-harl --help`."""
    lines = [f"  {name:<10} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: sde-harl COMMAND [...]", "", *lines, "", "sde-harl COMMAND --help tells more"]
    )


def main(argv: list[str]) -> int:
    """Runs a subcommand; returns its exit code, or 2 where there is no such command."""
    name, *rest = argv or ["--help"]
    if name in ("--help", "-h"):
        print(usage())
        return 0
    if name not in COMMANDS:
        print(
            f"error: sde-harl {name}: no such command; there are {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    code: int = importlib.import_module(COMMANDS[name].module).main(rest)
    return code


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main(sys.argv[1:]))
