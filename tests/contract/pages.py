"""The project's Markdown pages, taken apart for the tests that hold them to the code."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.contract.sources import ROOT

PAGES: Final = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
    ]
)

_FENCE: Final = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE: Final = re.compile(r"`([^`\n]+)`")
_LINK: Final = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
_COMMANDS: Final = ("errata", "errata-server")


def text(path: Path | str) -> str:
    """What a page says; ``path`` may be relative to the project."""
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [found["text"] for found in _FENCE.finditer(page) if found["language"] == language]


def command_lines(page: str) -> Iterator[list[str]]:
    """Every line in a plain block that runs one of our commands, as its words."""
    for block in blocks(page, ""):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] in _COMMANDS:
                yield words


def inline_commands(page: str) -> Iterator[list[str]]:
    """Every command named in running text, as its words; options may lack what they need."""
    for code in _INLINE.findall(_FENCE.sub("", page)):
        words = code.split()
        if len(words) > 1 and words[0] in _COMMANDS:
            yield words


def links(page: str) -> list[str]:
    """Where a page points within the project: paths and anchors."""
    targets = _LINK.findall(_FENCE.sub("", page))
    return [target for target in targets if "://" not in target]


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = (title.lower().replace("`", "") for title in _HEADING.findall(_FENCE.sub("", page)))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def table(page: str, first_column: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading, cells stripped."""
    lines = iter(page.splitlines())
    for line in lines:
        if line.startswith("|") and _cells(line)[0] == first_column:
            next(lines)
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append(_cells(row))
            return rows
    raise LookupError(f"there is no table that begins with {first_column!r}")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def code(cell: str) -> str:
    """A cell's text without the marks of code and emphasis."""
    return cell.strip("*").strip("`")
