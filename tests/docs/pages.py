"""What the pages show: blocks of commands, settings and Python, names in backticks, links.

A block of commands below a hidden comment ``<!-- only checked: WHY -->`` is not run; that its files, commands, options
and settings exist is checked for all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(
    r"^(?:<!-- only checked: (?P<why>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_NAME = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    is_run: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str) -> list[Block]:
    """All blocks of a language, page after page."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _BLOCK.finditer(text):
            if match["language"] == language:
                line = text.count("\n", 0, match.start("text")) + 1
                found.append(Block(str(page.relative_to(ROOT)), line, language, match["text"], match["why"] is None))
    return found


def names(page: Path) -> list[str]:
    """What stands in backticks outside the blocks, each once."""
    prose = _BLOCK.sub("", page.read_text())
    return list(dict.fromkeys(" ".join(name.split()) for name in _NAME.findall(prose)))


def links(page: Path) -> list[str]:
    """Targets of the links and pictures that lead into the project."""
    return _LINK.findall(_BLOCK.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """The headings' addresses, as GitHub makes them."""
    headings = _HEADING.findall(_BLOCK.sub("", page.read_text()))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
