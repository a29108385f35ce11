"""The site of the documents: what make docs builds, as a browser shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import browser
import pytest

ROOT = Path(__file__).parents[2]
SHOWN = {
    "index.html": "Train multi-agent policies",
    "configuration.html": "The keys that matter most",
    "learning.html": "98.4",
    "analysis.html": "resource_consumption.py",
    "architecture.html": "Where is an action sampled?",
    "report.html": "Prometheus",
}
"""By page: a part of its text. These have the widest tables and the largest pictures."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the site strictly: a broken link fails. Skips where mkdocs isn't installed."""
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = {page.with_suffix(".html").name for page in (ROOT / "docs").glob("*.md")}
    assert pages | {"index.html", "contributing.html"} <= {
        page.name for page in site.glob("*.html")
    }


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text()
        for start in ('src="http', '<link rel="stylesheet" href="http', '<link rel="preconnect"'):
            assert start not in text, (page.name, start)


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_in_a_browser(site: Path, tmp_path: Path, width: int) -> None:
    for name, text in SHOWN.items():
        seen = browser.look(site / name, tmp_path, width=width, scheme="light")
        assert text in seen["text"], name
        assert seen["console"] == [], name
        assert seen["wide"] <= seen["view"], f"{name} scrolls sideways"
