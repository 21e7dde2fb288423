"""Files a user gives with facts or labelled texts, and options written as words.

Invariant: a file that cannot be used is wrong usage, and the message names the file, the place
in it and what is wrong there.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import typer

import errata
from errata.cli import _records as records
from errata.cli._records import Layout

_FACTS: Final = Layout(required=("prompt", "subject"), optional=("answer",))
_LABELLED: Final = Layout(required=("text", "label"), several_lines=True)
_PROMPTS: Final = Layout(required=("prompt", "expected"))
_PROPOSALS: Final = Layout(required=("subject", "prompt", "target"), optional=("aliases",))


def facts(path: Path) -> list[errata.TracedFact]:
    """The facts in ``path``: records of prompt, subject and, if wanted, answer."""
    return [
        errata.TracedFact(
            prompt=record.text("prompt"),
            subject=record.text("subject"),
            answer=record.text("answer", default=""),
        )
        for record in records.records(path, _FACTS)
    ]


def labelled_texts(path: Path) -> list[errata.LabelledText]:
    """The texts in ``path``: records of text and label."""
    return [
        errata.LabelledText(text=record.text("text"), label=record.text("label"))
        for record in records.records(path, _LABELLED)
    ]


def check_prompts(path: Path) -> list[errata.CheckPrompt]:
    """The prompts in ``path``: records of prompt and expected answer."""
    return [
        errata.CheckPrompt(prompt=record.text("prompt"), expected=record.text("expected"))
        for record in records.records(path, _PROMPTS)
    ]


def proposals(path: Path) -> list[errata.EditProposal]:
    """The edits in ``path``: records of subject, prompt and target, one fact each.

    Aliases, where there are some, are a list; in a CSV they stand between bars: ``|``.
    """
    return [
        errata.EditProposal(
            subject=record.text("subject"),
            facts=(errata.Fact(template=record.text("prompt"), target=record.text("target")),),
            aliases=record.names("aliases"),
        )
        for record in records.records(path, _PROPOSALS)
    ]


def lines(path: Path) -> list[str]:
    """The lines in ``path`` that say something; a file without one is refused."""
    found = records.lines(records.text(path))
    if not found:
        raise typer.BadParameter(f"{path} must have a text, at least one, each on a line")
    return found


def numbers(given: Iterable[str]) -> dict[str, float]:
    """``NAME=VALUE`` words as numbers by name."""
    found = {}
    for word in given:
        name, separator, value = word.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            separator = ""
        if not separator or not name.strip():
            raise typer.BadParameter(f"{word!r} must be written as NAME=NUMBER", param_hint="--set")
    return found
