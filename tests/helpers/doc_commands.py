"""Runs every command of README.md and docs/*.md, each for seconds, and compares what it prints.

python tests/helpers/doc_commands.py [PAGE.md ...]

The commands run in a temporary folder that looks like a checkout, page after page, so that a later
one finds the runs of earlier ones. doc_blocks.py says how a block is marked, doc_shortened.py how a
command is shortened. The exit code is 1 where a command fails, or prints something else than what
is written.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from doc_blocks import PAGES, ROOT, Block, pattern, read_blocks

SHORTENED = Path(__file__).with_name("doc_shortened.py")
LIMIT_S = 300
"""For hangs alone."""
LINKED = ("sde_harl", "analysis", "benchmarks", "jobs", "configs", "hostfiles", "tests")
HARL_FILE = {
    "main_args": {"algo": "happo", "env": "smac", "exp_name": "tuned"},
    "algo_args": {"train": {"n_rollout_threads": 8, "num_env_steps": 64, "episode_length": 8}},
    "env_args": {"map_name": "3m"},
}
RUN_NAME = re.compile(r"results/[\w/]*/seed-\d+-\d{8}-\d{6}")


class Outcome(NamedTuple):
    """What became of a block."""

    code: int
    output: str
    wrong: str
    """The first line that was not printed; "" for none."""


def checkout(folder: Path) -> None:
    """Makes a folder that looks like a checkout, in which programs are shortened."""
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / "CONFIG.json").write_text(json.dumps(HARL_FILE))
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").touch()
    for name in ("python", "sde-harl", "mpirun"):
        shutil.copy(SHORTENED, programs / name)
        (programs / name).chmod(0o755)


def newest(folder: Path, below: str = "") -> str:
    """Returns the folder of the newest run, relative to the checkout; "" where there is none."""
    found = (folder / "results" / below).rglob("run.h5")
    runs = sorted(found, key=lambda path: path.stat().st_mtime)
    if not runs:
        return ""
    return str(runs[-1].parent.relative_to(folder))


def filled(folder: Path, text: str) -> str:
    """Puts what is there for the words in capitals, and a newest run for a run of the past."""

    def past(match: re.Match[str]) -> str:
        task = Path(match[0]).relative_to("results")
        return next(filter(None, (newest(folder, str(each)) for each in task.parents)), "")

    text = RUN_NAME.sub(past, text)
    text = re.sub(r"for seed in [\d ]+;", "for seed in 1;", text)
    text = re.sub(r"\bRUN[12]\.h5\b", f"{newest(folder)}/run.h5", text)
    text = re.sub(r"\bHOSTFILE\b", "hostfiles/localhost", text)
    text = re.sub(r"\b(?:RUN|OTHER)/run\.h5\b|\bRUN\.h5\b", f"{newest(folder)}/run.h5", text)
    return re.sub(r"\bRUN\b", newest(folder), text)


def run(block: Block, folder: Path) -> Outcome:
    """Runs a block in bash."""
    script = filled(folder, block.commands)
    asked = {"DOC_PROGRAMS": str(Path(sys.executable).parent), "PYTHONPATH": str(folder)}
    asked["PATH"] = f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}"
    if block.rule == "compose":
        asked["DOC_COMPOSE"] = "1"
    asked["DOC_WITH"] = block.rule.partition("with ")[2]
    bash = ["bash", "-euo", "pipefail", "-c", script]
    with subprocess.Popen(
        bash,
        cwd=folder,
        env={**os.environ, **asked},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as started:
        try:
            output = started.communicate(timeout=LIMIT_S)[0]
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            output = f"took more than {LIMIT_S} s"
    code = started.returncode
    if code == 2 and block.printed and block.printed[0].startswith("error: "):
        code = 0
    return Outcome(code, output, not_printed(block, output))


def not_printed(block: Block, output: str) -> str:
    lines = [line.strip() for line in output.splitlines()]
    for wanted in block.printed:
        if not any(re.fullmatch(pattern(wanted), line) for line in lines):
            return wanted
    return ""


def check(block: Block, folder: Path) -> bool:
    """Runs a block and prints a line about it, and what it printed where it is wrong."""
    if block.rule.startswith("skip, "):
        print(f"{'-':>7}  {block.place}: {block.rule}", flush=True)
        return True
    began = time.monotonic()
    outcome = run(block, folder)
    is_right = outcome.code == 0 and not outcome.wrong
    print(f"{time.monotonic() - began:6.1f}s  {block.place}: {'runs' if is_right else 'WRONG'}")
    if outcome.wrong:
        print(f"not printed: {outcome.wrong}")
    if not is_right:
        print(f"{block.commands}\n{outcome.output[-4000:]}\nexit code {outcome.code}")
    sys.stdout.flush()
    return is_right


def main(argv: list[str]) -> int:
    """Checks the pages named, or all. Returns the exit code."""
    pages = [Path(word).resolve() for word in argv] or PAGES
    with tempfile.TemporaryDirectory(prefix="sde-documents-") as name:
        folder = Path(name)
        checkout(folder)
        wrong = [
            block.place for page in pages for block in read_blocks(page) if not check(block, folder)
        ]
    for place in wrong:
        print(f"wrong: {place}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
