"""Reads hostfiles, and checks the names of hosts in them and in an mpirun's options.

mpirun gives a name to ssh as a word of its own. One that begins with `-` would be an option there,
and `-oProxyCommand=...` runs a program on this machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sde_harl.errors import UserError

LINE = re.compile(r"(?P<name>\w[\w.:-]*)(\s+(slots|max_slots)\s*=\s*\d+)*")
# Open MPI takes them with one dash or two; `--host=a,b` is no form of its.
FILE_OPTIONS = ("hostfile", "machinefile", "default-hostfile", "add-hostfile")
HOST_OPTIONS = ("host", "H", "add-host")


def read_hosts(path: Path) -> list[str]:
    """Returns the names of a hostfile in their order, each once.

    Raises UserError for a file that can't be read, a bad line, and a file without hosts.
    """
    names: dict[str, None] = {}
    for number, text in _lines(path):
        found = LINE.fullmatch(text)
        if found is None:
            raise UserError(f"{path}:{number}: expected NAME slots=N, got {text[:60]!r}")
        names[found["name"]] = None
    if not names:
        raise UserError(f"{path}: no hosts")
    return [*names]


def check_launcher(words: Sequence[str], source: str) -> None:
    """Raises UserError where an mpirun's command line or its hostfile names what is no host.

    `source` is what the words come from. A hostfile may say more than `read_hosts` understands, so
    that only the names are looked at.
    """
    for word, following in zip(words, words[1:]):
        option = word.lstrip("-")
        if not word.startswith("-"):
            continue
        if option in FILE_OPTIONS:
            for number, text in _lines(Path(following)):
                _check_name(text.split()[0], f"{following}:{number}")
        elif option in HOST_OPTIONS:
            for name in following.split(","):
                _check_name(name, source)


def _check_name(name: str, source: str) -> None:
    if name.startswith("-"):
        raise UserError(f"{source}: expected the name of a host, got {name[:60]!r}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields number and text of each line that says something. Raises UserError as `read_hosts`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't read the hostfile: {error}") from error
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if text:
            yield number, text
