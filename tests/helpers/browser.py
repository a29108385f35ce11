"""Looks at a page in headless Chromium, as a reader's browser shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

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
const seen = document.querySelector("iframe").contentDocument;
const page = seen.documentElement;
const style = seen.defaultView.getComputedStyle(seen.body);
document.querySelector("#seen").textContent = JSON.stringify({
  wide: page.scrollWidth, view: page.clientWidth, text: seen.body.innerText,
  panels: [...seen.querySelectorAll("figure svg")].map(each => each.getBoundingClientRect().height),
  paper: style.backgroundColor, ink: style.color,
  scripts: seen.querySelectorAll("script").length,
});
"""


def look(page: str | Path, folder: Path, *, width: int, scheme: str) -> dict[str, Any]:
    """Returns what a browser of this width shows of a page, and the console's lines.

    `page`: the page's HTML, or its file, where it has others beside it.

    Skips the test where there is no Chromium.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    # In a frame: a window of Chromium has a least width, which is more than a phone's.
    source = f'srcdoc="{html.escape(page)}"' if isinstance(page, str) else f'src="file://{page}"'
    frame = f'<iframe width="{width}" height="900" {source}></iframe>'
    script = f'<script>addEventListener("load", () => {{{MEASURE}}})</script>'
    outer = folder / "outer.html"
    outer.write_text(f'<meta charset="utf-8">{frame}<pre id="seen"></pre>{script}')
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
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**seen, "console": console}
