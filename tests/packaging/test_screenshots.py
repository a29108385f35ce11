"""The screenshots of the documents, and the script that makes them."""

from __future__ import annotations

import re
from pathlib import Path

import browser
import pytest
from launch import environment, launch_command, needs_mpirun
from PIL import Image

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "figures"
SCRIPT = ROOT / "jobs" / "screenshots.sh"
NAMES = re.findall(r"\b([a-z-]+\.png)\"?(?: 0)?$", SCRIPT.read_text(), re.MULTILINE)
"""The pictures that the script writes: each stands at the end of a line."""


def test_the_script_makes_what_the_pages_show() -> None:
    assert {*NAMES} == {
        *("play.png", "live.png", "live-terminal.png", "report.png", "report-phone.png"),
    }
    text = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for name in NAMES:
        assert f"(figures/{name})" in text, name


def test_screenshots_are_small() -> None:
    sizes = {name: (FIGURES / name).stat().st_size for name in NAMES}
    assert max(sizes.values()) < 150_000, sizes
    assert sum(sizes.values()) < 600_000, sizes


@pytest.mark.slow
@needs_mpirun
def test_they_are_made_anew(tmp_path: Path) -> None:
    browser.find()
    done = launch_command([SCRIPT, str(tmp_path)], cwd=tmp_path, env=environment())
    assert done.code == 0, done.out[-2000:] + done.err[-2000:]
    for name in NAMES:
        with Image.open(tmp_path / name) as made, Image.open(FIGURES / name) as kept:
            assert made.size == kept.size, name
            assert len(made.getcolors(256) or ()) > 8, name
