"""Gives mkdocs the pages that stand outside docs/ (a hook of mkdocs.yml, for make docs)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "LICENSE",
    "CITATION.cff": "CITATION.cff",
}
"""By their name at the root: their name in the site."""


def linked(text: str) -> str:
    """Returns Markdown whose links to files at the root, and from them into docs/, are the site's."""
    text = re.sub(r"\]\((?:\.\./)?docs/", "](", text)
    for name, page in PAGES.items():
        text = re.sub(rf"\]\((?:\.\./)?{re.escape(name)}(?=[#)])", f"]({page}", text)
    return text


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the pages at the root."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Mends the links of a page."""
    return linked(markdown)
