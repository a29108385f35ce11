"""Looks at a page in headless Chromium, as a reader's browser shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from limits import hang_limit_s

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=5000"),
    # So that the page around a page of a file may look into it.
    "--allow-file-access-from-files",
)
SCHEMES = {"dark": 0, "light": 1}
MEASURE = """
const measured = [...document.querySelectorAll("iframe")].map(frame => {
  const seen = frame.contentDocument;
  const page = seen.documentElement;
  const style = seen.defaultView.getComputedStyle(seen.body);
  return {
    wide: page.scrollWidth, view: page.clientWidth, text: seen.body.innerText,
    panels: [...seen.querySelectorAll("figure svg")]
      .map(each => each.getBoundingClientRect().height),
    missing: [...seen.images].filter(each => !each.naturalWidth).map(each => each.src),
    paper: style.backgroundColor, ink: style.color,
    scripts: seen.querySelectorAll("script").length,
  };
});
document.querySelector("#seen").textContent = JSON.stringify(measured);
"""


class Seen(NamedTuple):
    """What a browser has shown."""

    pages: list[dict[str, Any]]
    """By page, what MEASURE reads of it."""
    console: list[str]
    """The console's lines, of all pages; a line names its page."""


def find() -> str:
    """Returns the browser's program. Skips the test where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    return program


def look(page: str | Path, folder: Path, *, width: int, scheme: str) -> dict[str, Any]:
    """Returns what a browser of this width shows of a page, and the console's lines.

    `page`: the page's HTML, or its file, where it has others beside it.

    Skips the test where there is no Chromium.
    """
    seen = look_at([page], folder, width=width, scheme=scheme)
    return {**seen.pages[0], "console": seen.console}


def look_at(pages: Sequence[str | Path], folder: Path, *, width: int, scheme: str) -> Seen:
    """Returns what a browser of this width shows of several pages, as `look` does of one."""
    program = find()
    # In frames: a window of Chromium has a least width, which is more than a phone's.
    sources = [
        f'srcdoc="{html.escape(page)}"' if isinstance(page, str) else f'src="file://{page}"'
        for page in pages
    ]
    frames = "".join(f'<iframe width="{width}" height="900" {each}></iframe>' for each in sources)
    script = f'<script>addEventListener("load", () => {{{MEASURE}}})</script>'
    outer = folder / "outer.html"
    outer.write_text(f'<meta charset="utf-8">{frames}<pre id="seen"></pre>{script}')
    done = subprocess.run(
        [
            *(program, *OPTIONS, f"--user-data-dir={folder / f'profile-{width}-{scheme}'}"),
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
            *("--dump-dom", f"file://{outer}"),
        ],
        capture_output=True,
        text=True,
        timeout=hang_limit_s(120),
        check=True,
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-500:] + done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen(json.loads(html.unescape(found[1])), console)


def is_dark(colour: str) -> bool:
    """Tells of a colour as a browser writes it, "rgb(r, g, b)", whether it is a dark one."""
    return sum(map(int, re.findall(r"\d+", colour)[:3])) < 3 * 128
