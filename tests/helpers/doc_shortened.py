#!/usr/bin/env python3
"""Stands for a program that the documents call, and runs the real one for seconds.

doc_commands.py writes it under the name of each program into the folder that is first in PATH.
These are all rules by which a command is shortened:

    python -m sde_harl.run ...   at most LIMITS of each key; sde-harl run and sweep likewise
    mpirun -np 9 ...             three ranks at most
    sde-harl sweep ...           two values of each key in SWEPT
    sde-harl submit ...          --dry-run, since no cluster is at hand; status and cancel: --help
    sde-harl live ...            --once, and with --web it is stopped as soon as it answers
    sde-harl play ...            one episode; --live gets a terminal
    python -m pytest ...         its tests are collected, not run
    python benchmarks/X.py ...   --help
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

LIMITS = {
    "train.envs": 8,
    "train.slots": 2,
    "train.rollout": 8,
    "train.steps": 64,
    "eval.interval": 0,
    "eval.episodes": 2,
    "env.workers": 0,
    "algo.epochs": 1,
}
RANKS = 3
VALUES = 2
SWEPT = ("policy.local_blocks", "seed")
TRAINING = ["-m", "sde_harl.run"]


def shortened(words: list[str]) -> list[str]:
    """Returns the words of a training, with less to do."""
    if "--print-config" in words or "--help" in words or "--resume" in words:
        return words
    added = []
    for key, most in LIMITS.items():
        given = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")]
        if not given or not given[-1].isdigit() or int(given[-1]) > most:
            added.append(f"{key}={most}")
    return [*words, *added, *os.environ.get("DOC_WITH", "").split()]


def training(words: list[str]) -> list[str]:
    if os.environ.get("DOC_COMPOSE"):
        return [*words, "--print-config"]
    return shortened(words)


def python(words: list[str]) -> list[str]:
    if words[:2] == TRAINING:
        return [*TRAINING, *training(words[2:])]
    if words[:2] == ["-m", "pytest"]:
        return [*words, "--collect-only", "-q"]
    if words[0].startswith("benchmarks/"):
        return [words[0], "--help"]
    return words


def mpirun(words: list[str]) -> list[str]:
    at = words.index("-np") + 1
    ranks = min(int(words[at]), RANKS)
    return [*words[:at], str(ranks), *words[at + 1 :]]


def sweep(words: list[str]) -> list[str]:
    few = []
    for word in words:
        key, equals, values = word.partition("=")
        # Of an option's value, such as --mpirun's, nothing is left out.
        if equals and key in SWEPT:
            values = ",".join(values.split(",")[:VALUES])
        few.append(f"{key}{equals}{values}")
    return shortened(few)


def sde_harl(words: list[str]) -> list[str]:
    name, *rest = words
    if name == "run":
        return [name, *training(rest)]
    if name == "sweep":
        return [name, *sweep(rest)]
    if name == "submit":
        return [name, "--dry-run", *rest]
    if name in ("status", "cancel"):
        return [name, "--help"]
    if name == "play" and "--episodes" in rest:
        at = rest.index("--episodes") + 1
        return [name, *rest[:at], "1", *rest[at + 1 :]]
    if name == "play":
        return [name, *rest, "--episodes", "1"]
    if name == "live" and not {"--once", "--web"} & set(rest):
        return [name, *rest, "--once"]
    return words


def until_it_answers(command: list[str]) -> int:
    """Starts a server, stops it as Ctrl-C does when it has printed something."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout
        print(started.stdout.readline(), end="")
        started.terminate()
        print(started.stdout.read(), end="")
    return 0


def main() -> int:
    """Runs the program whose name this file has. Returns its exit code."""
    name = Path(sys.argv[0]).name
    real = Path(os.environ["DOC_PROGRAMS"]) / name
    words = sys.argv[1:]
    if name == "mpirun" and os.environ.get("DOC_COMPOSE"):
        # What is only composed needs one process.
        at = next(k for k, word in enumerate(words) if Path(word).name in ("python", "sde-harl"))
        os.execvp(words[at], words[at:])
    rules = {"python": python, "mpirun": mpirun, "sde-harl": sde_harl}
    command = [str(real), *rules[name](words)]
    if name == "sde-harl" and "--web" in words:
        return until_it_answers(command)
    if name == "sde-harl" and "--live" in words:
        # It wants a terminal.
        return os.waitstatus_to_exitcode(pty.spawn(command))
    os.execv(real, command)


if __name__ == "__main__":
    sys.exit(main())
