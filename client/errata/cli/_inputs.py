"""Files a user gives with facts or labelled texts: JSON, JSON lines or CSV.

Invariant: a file that cannot be used is wrong usage, and the message names the file, the record
and what is wrong with it.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import typer

import errata

_FORMATS: Final = (".json", ".jsonl", ".csv")


def facts(path: Path) -> list[errata.TracedFact]:
    """The facts in ``path``: records of prompt, subject and, if wanted, answer."""
    return [
        errata.TracedFact(
            prompt=_text(record, "prompt", place),
            subject=_text(record, "subject", place),
            answer=_text(record, "answer", place, default=""),
        )
        for place, record in _records(path)
    ]


def labelled_texts(path: Path) -> list[errata.LabelledText]:
    """The texts in ``path``: records of text and label."""
    return [
        errata.LabelledText(text=_text(record, "text", place), label=_text(record, "label", place))
        for place, record in _records(path)
    ]


def check_prompts(path: Path) -> list[errata.CheckPrompt]:
    """The prompts in ``path``: records of prompt and expected answer."""
    return [
        errata.CheckPrompt(
            prompt=_text(record, "prompt", place), expected=_text(record, "expected", place)
        )
        for place, record in _records(path)
    ]


def proposals(path: Path) -> list[errata.EditProposal]:
    """The edits in ``path``: records of subject, prompt and target, one fact each.

    Aliases, where there are some, are a list; in a CSV they stand between bars: ``|``.
    """
    return [
        errata.EditProposal(
            subject=_text(record, "subject", place),
            facts=(
                errata.Fact(
                    template=_text(record, "prompt", place), target=_text(record, "target", place)
                ),
            ),
            aliases=_names(record, "aliases", place),
        )
        for place, record in _records(path)
    ]


def lines(path: Path) -> list[str]:
    """The lines in ``path`` that say something."""
    return _lines(_content(path))


def _records(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Every record, with words for where it is."""
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise typer.BadParameter(f"{path} must end in .json, .jsonl or .csv")
    content = _content(path)
    if suffix == ".json":
        found = _json(path, content)
    elif suffix == ".jsonl":
        found = [_json(path, line) for line in _lines(content)]
    else:
        found = list(csv.DictReader(io.StringIO(content)))
    if not isinstance(found, list) or not found:
        raise typer.BadParameter(f"{path} must hold a list of records, at least one")
    return [
        (f"{path}, record {number}", _object(record, path, number))
        for number, record in enumerate(found, start=1)
    ]


def _lines(content: str) -> list[str]:
    """The lines that say something; JSON may hold what `str.splitlines` takes for line ends."""
    return [line.removesuffix("\r") for line in content.split("\n") if line.strip()]


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} is not UTF-8 text") from None


def _json(path: Path, text: str) -> Any:  # noqa: ANN401 - JSON is whatever it is
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} is no JSON: {error}") from None


def _object(record: object, path: Path, number: int) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise typer.BadParameter(f"{path}, record {number} must be an object with named fields")
    return record


def _text(record: Mapping[str, Any], name: str, place: str, default: str | None = None) -> str:
    value = record.get(name, default)
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise typer.BadParameter(f"{place} has no text under {name!r}")
    return value


def _names(record: Mapping[str, Any], name: str, place: str) -> tuple[str, ...]:
    value = record.get(name) or []
    names = value.split("|") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise typer.BadParameter(f"{place} must have a list of texts under {name!r}")
    return tuple(one.strip() for one in names if one.strip())


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
