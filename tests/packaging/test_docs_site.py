"""The site of the documents: what make docs builds, as a browser shows it."""

from __future__ import annotations

import re
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
"""By page: a part of its text."""
WORDS = (
    r"latents?",
    r"group nets?|trunks?",
    r"(?<!fallback\s)(?<!Fallback\s)(?<!exit\s)heads?",
    "rANS",
    r"[Ll]ambdas?",
)
"""Words that a newcomer doesn't know, as they are written in prose."""
LEAST_TEXT = 500
"""Letters of the shortest page, its navigation included."""


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


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_the_first_use_of_a_word_leads_to_the_glossary(page: Path) -> None:
    if page.name in ("glossary.md", "reference.md"):
        return
    # Of commands, keys, addresses and headings, nothing is a use.
    prose = re.sub(
        r"^```.*?^```$|`[^`\n]*`|(?<=\])\((?!glossary)[^)]*\)|^#[^\n]*$|<!--.*?-->",
        "",
        page.read_text(),
        flags=re.MULTILINE | re.DOTALL,
    )
    for word in WORDS:
        first = re.search(rf"(?<![\w-])(?:{word})(?![\w-])", prose)
        if first:
            assert prose[first.end() :].startswith("](glossary.md#"), first[0]


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text()
        for start in ('src="http', '<link rel="stylesheet" href="http', '<link rel="preconnect"'):
            assert start not in text, (page.name, start)


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "light"),
        (1280, "dark"),
        pytest.param(390, "dark", marks=pytest.mark.slow),
        pytest.param(1280, "light", marks=pytest.mark.slow),
    ],
)
def test_every_page_in_a_browser(site: Path, tmp_path: Path, width: int, scheme: str) -> None:
    # The page for addresses that don't exist asks a server for its style.
    pages = sorted(page for page in site.glob("*.html") if page.name != "404.html")
    shown = browser.look_at(pages, tmp_path, width=width, scheme=scheme)
    assert shown.console == []
    for page, seen in zip(pages, shown.pages, strict=True):
        assert SHOWN.get(page.name, "") in seen["text"], page.name
        assert len(seen["text"]) > LEAST_TEXT, page.name
        assert seen["missing"] == [], page.name
        assert seen["wide"] <= seen["view"], f"{page.name} scrolls sideways"
        assert browser.is_dark(seen["paper"]) == (scheme == "dark"), page.name
        assert seen["paper"] != seen["ink"], page.name


def test_a_page_that_is_too_wide_is_noticed(site: Path, tmp_path: Path) -> None:
    wide = site / "wide.html"
    body = (
        '<div style="width: 500px">x</div><img src="nosuch.png"><script>console.error(1)</script>'
    )
    wide.write_text((site / "energy.html").read_text().replace("<article", f"{body}<article", 1))
    shown = browser.look_at([wide, site / "energy.html"], tmp_path, width=390, scheme="light")
    wide.unlink()
    assert [seen["wide"] <= seen["view"] for seen in shown.pages] == [False, True]
    assert [len(seen["missing"]) for seen in shown.pages] == [1, 0]
    assert any("wide.html" in line for line in shown.console)
