"""Read the hand-written phrase tables: prose frames by theme, feelings, and fillers.

A table is a text file: `# theme` opens a theme, a blank line ends one of its stages, and
`= name` opens a list of fillers. Nothing here draws random numbers.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

DATA = Path(__file__).parent / "data"

OPENINGS = (
    "According to the guide, ",
    "As is well known, ",
    "In fact, ",
    "Everyone knows that ",
    "It is said that ",
    "We learned today that ",
    "The book says that ",
    "Of course, ",
    "My teacher told me that ",
    "One answer in the quiz was that ",
    "The newspaper wrote that ",
    "To be exact, ",
    "I remember that ",
    "Few people doubt that ",
    "As the almanac notes, ",
    "For the record, ",
    "Note that ",
    "You may know that ",
)
CLOSINGS = (
    ", which is well known.",
    ", as every guide explains.",
    ", and nobody doubts it.",
    ", to be exact.",
    ", of course.",
    ", says the book.",
    "; this was checked twice.",
    ", and that is a fact.",
    ", as the quiz showed.",
    ", or so we were taught.",
    "!",
    ", if the almanac is right.",
)


@dataclass(frozen=True, kw_only=True)
class Prose:
    """Sentence frames by theme and stage, and the words that fill them."""

    themes: dict[str, list[list[str]]]
    fillers: dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Feelings:
    """Openers, links and events for the texts that end in a feeling."""

    opener: list[str]
    bridge: list[str]
    link: list[str]
    good: list[str]
    bad: list[str]


@cache
def prose() -> Prose:
    """Parse the prose frames."""
    stages, fillers = (DATA / "prose.txt").read_text().split("\n= ", maxsplit=1)
    themes: dict[str, list[list[str]]] = {}
    for block in stages.split("# ")[1:]:
        name, body = block.split("\n", maxsplit=1)
        themes[name] = [stage.split("\n") for stage in body.strip().split("\n\n")]
    return Prose(themes=themes, fillers=_lists(fillers))


@cache
def feelings() -> Feelings:
    """Parse the feelings."""
    lists = _lists((DATA / "feelings.txt").read_text().removeprefix("= "))
    return Feelings(**lists)


def _lists(text: str) -> dict[str, list[str]]:
    lists = {}
    for block in text.strip().split("\n= "):
        name, body = block.split("\n", maxsplit=1)
        lists[name.strip()] = [
            item for line in body.strip().split("\n") for item in line.split("|")
        ]
    return lists
