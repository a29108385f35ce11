"""The commands of README.md and docs/ name what exists. .ci/run runs them (doc_commands.py)."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT, Block, pattern, read_blocks
from doc_commands import not_printed
from doc_shortened import mpirun, python, sde_harl

from sde_harl.cli.main import COMMANDS, main
from sde_harl.config.keys import KEYS, SECTIONS

KINDS = {"sh", "console", "python", "yaml", "text"}
ANALYSIS = ROOT / "sde_harl" / "analysis" / "program.py"
ENDS = r"\s#|&&|\||;|\n"


@cache
def help_of(name: str) -> str:
    """Returns the text of `sde-harl NAME --help`."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([name, "--help"])
    return printed.getvalue()


def calls(program: str, block: Block) -> list[list[str]]:
    """Returns the words that follow each call of a program, a pattern with a group or none."""
    text = block.commands.replace("\\\n", " ")
    found = re.finditer(rf"(?:^|\s)({program})((?:\s.*?)?)(?:{ENDS}|\Z)", text, re.MULTILINE)
    return [[each[1], *each[2].split()] for each in found]


def options(words: list[str]) -> list[str]:
    ours = words[: words.index("--")] if "--" in words else words
    return [word.partition("=")[0] for word in ours if re.match(r"--[a-z]", word)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_kind_that_says_whether_it_is_checked(page: Path) -> None:
    text = page.read_text()
    fences = re.findall(r"^```(\w*)$", text, re.MULTILINE)
    assert set(fences[::2]) <= KINDS
    assert set(fences[1::2]) <= {""}
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"\n\n {4}[^ -]", outside), "an indented block: it would not be checked"
    # A comment that is not right above a block would be without effect.
    assert text.count("<!-- check:") == sum(bool(each.rule) for each in read_blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_what_exists(page: Path) -> None:
    for block in read_blocks(page):
        parsed = subprocess.run(["bash", "-n", "-c", block.commands], capture_output=True)
        assert parsed.returncode == 0, (block.place, parsed.stderr)
        if block.printed and block.printed[0].startswith("error: "):
            continue
        for key in re.findall(r"(?<![\w./$-])([a-z]+\.[a-z_]+)=", block.commands):
            if key.partition(".")[0] in SECTIONS:
                assert key in KEYS, (block.place, key)
        for _, name, *words in calls("sde-harl", block):
            assert name in COMMANDS, (block.place, name)
            if name != "run":
                for option in options(words):
                    assert option in help_of(name), (block.place, name, option)
        for path, *words in calls(r"analysis/\w+\.py", block):
            told = (ROOT / path).read_text() + ANALYSIS.read_text()
            for option in options(words):
                assert f'"{option}"' in told, (block.place, path, option)


def test_there_is_something_to_check() -> None:
    blocks = [block for page in PAGES for block in read_blocks(page)]
    run = [block for block in blocks if not block.rule.startswith("skip")]
    assert len(run) > len(blocks) // 2
    assert {name for block in run for _, name, *_ in calls("sde-harl", block)} >= {
        *("run", "sweep", "submit", "live", "report", "export", "play", "estimate"),
    }


def test_an_unknown_rule_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- check: perhaps -->\n```sh\ntrue\n```\n")
    with pytest.raises(ValueError, match="no such rule: perhaps"):
        read_blocks(page)


def test_printed_lines_may_differ_in_their_numbers_alone() -> None:
    written = "result: 98.4% won · 8.5 bytes/decision"
    block = Block(ROOT / "README.md", 1, "", "true", (written,))
    assert not not_printed(block, "first\n  result: 0.0% won  · 1,024 bytes/decision\n")
    assert not_printed(block, "result: 0.0% lost · 1,024 bytes/decision\n") == written
    assert not_printed(block, "") == written
    assert re.fullmatch(pattern("next: play results/..."), "next: play results/a/seed-2")


def test_commands_are_shortened_by_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOC_WITH", "seed=3")
    words = python(["-m", "sde_harl.run", "quick", "train.steps=0", "train.envs=64"])
    assert words[:5] == ["-m", "sde_harl.run", "quick", "train.steps=0", "train.envs=64"]
    assert "train.envs=8" in words[5:]
    assert "train.steps=64" not in words
    assert words[-1] == "seed=3"
    assert mpirun(["-np", "9", "python"]) == ["-np", "3", "python"]
    assert sde_harl(["sweep", "quick", "seed=1,2,3", "env.map=3m"])[2:4] == [
        "seed=1,2",
        "env.map=3m",
    ]
    assert sde_harl(["submit", "quick", "--", "--partition=gpu"])[:3] == [
        *("submit", "--dry-run", "quick"),
    ]
    assert sde_harl(["play", "latest", "--episodes", "3"])[-2:] == ["--episodes", "1"]
    monkeypatch.setenv("DOC_COMPOSE", "1")
    assert python(["-m", "sde_harl.run", "quick"]) == [
        "-m",
        "sde_harl.run",
        "quick",
        "--print-config",
    ]


def test_a_renamed_command_is_noticed() -> None:
    assert main(["nosuch"]) == 2
    block = Block(ROOT / "README.md", 1, "", "sde-harl nosuch x && sde-harl report latest # y", ())
    assert [words[1] for words in calls("sde-harl", block)] == ["nosuch", "report"]
