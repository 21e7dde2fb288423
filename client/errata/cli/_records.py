"""Records in files a user gives: JSON, JSON lines or CSV.

Invariants: a file is read whole or refused, so that no field of it is dropped or cut silently; a
refusal is wrong usage, and names the file, the place in it and what is wrong there.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer

_FORMATS: Final = (".json", ".jsonl", ".csv")
_SEPARATORS: Final = {";": "semicolons", "\t": "tabs"}
"""What other programs put between columns in place of commas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The fields that the records of a file have."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    several_lines: bool = False
    """Whether a value in a CSV may go on over a line's end. Else one that does is refused: it is
    rather a quote that was left open."""

    def require_known(self, place: str, names: Iterable[str]) -> None:
        """Do nothing if every name is one of the fields.

        A misspelt optional field would otherwise be missing without a word.

        Raises:
            typer.BadParameter: one is not.
        """
        known = (*self.required, *self.optional)
        for name in names:
            if name not in known:
                raise typer.BadParameter(
                    f"{place} has {name!r}, which is none of the fields {', '.join(known)}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record, with words for where it is."""

    place: str
    fields: Mapping[str, Any]

    def text(self, name: str, default: str | None = None) -> str:
        """A field that is a text; it may be empty only where there is a default."""
        value = self.fields.get(name, default)
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise typer.BadParameter(f"{self.place} has no text under {name!r}")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """A field that is a list of texts, or texts between bars; none where it is missing."""
        value = self.fields.get(name) or []
        names = value.split("|") if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise typer.BadParameter(f"{self.place} must have a list of texts under {name!r}")
        return tuple(one.strip() for one in names if one.strip())


@dataclass(frozen=True, slots=True)
class _Object:
    """An object of JSON as it is written: a dictionary would keep the last of two equal names."""

    pairs: Sequence[tuple[str, Any]]


def records(path: Path, layout: Layout) -> list[Record]:
    """Every record in ``path``.

    Raises:
        typer.BadParameter: the file cannot be read, or is not as ``layout`` says.
    """
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise typer.BadParameter(f"{path} must end in .json, .jsonl or .csv")
    content = text(path)
    if suffix == ".csv":
        found = list(_of_csv(path, content, layout))
    elif suffix == ".jsonl":
        found = list(_of_json_lines(path, content, layout))
    else:
        found = list(_of_json(path, content, layout))
    if not found:
        raise typer.BadParameter(f"{path} must hold a list of records, at least one")
    return found


def text(path: Path) -> str:
    """What ``path`` says.

    Raises:
        typer.BadParameter: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} is not UTF-8 text") from None


def lines(content: str) -> list[str]:
    """The lines that say something."""
    return [line for _, line in _numbered(content)]


def _numbered(content: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers in the file.

    JSON may hold what `str.splitlines` takes for line ends.
    """
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _of_json(path: Path, content: str, layout: Layout) -> Iterator[Record]:
    found = _json(content, str(path))
    if not isinstance(found, list):
        raise typer.BadParameter(f"{path} must hold a list of records, at least one")
    for number, fields in enumerate(found, start=1):
        yield _record(f"{path}, record {number}", fields, layout)


def _of_json_lines(path: Path, content: str, layout: Layout) -> Iterator[Record]:
    for number, line in _numbered(content):
        place = f"{path}, line {number}"
        yield _record(place, _json(line, place), layout)


def _record(place: str, found: object, layout: Layout) -> Record:
    if not isinstance(found, _Object):
        raise typer.BadParameter(f"{place} must be an object with named fields")
    names = [name for name, _ in found.pairs]
    layout.require_known(place, names)
    _require_distinct(place, names)
    fields = dict(found.pairs)
    return Record(place=place, fields=fields)


def _json(content: str, place: str) -> Any:  # noqa: ANN401 - JSON is whatever it is
    try:
        return json.loads(content, object_pairs_hook=_Object)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        if "\n" not in content:  # in JSON lines `place` has the line; this would be another
            at = f"column {error.colno}"
        raise typer.BadParameter(f"{place} is no JSON: {error.msg} at {at}") from None
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{place} is no JSON: {error}") from None


def _of_csv(path: Path, content: str, layout: Layout) -> Iterator[Record]:
    rows = _rows(path, content)
    _, header = next(rows, ("", ()))
    if header:
        _require_columns(path, header, layout)
    for place, row in rows:
        if len(row) > len(header):
            raise typer.BadParameter(
                f"{place} has more fields than the header; put quotes around a value that holds "
                "a comma"
            )
        if len(row) < len(header):
            raise typer.BadParameter(
                f"{place} has fewer fields than the header; leave one empty between its commas"
            )
        fields = dict(zip(header, row, strict=True))
        _require_closed(place, fields, layout)
        yield Record(place=place, fields=fields)


def _rows(path: Path, content: str) -> Iterator[tuple[str, Sequence[str]]]:
    """The rows that say something, the header first, each with words for where it begins."""
    reader = csv.reader(io.StringIO(content), strict=True)
    while True:
        place = f"{path}, line {reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise typer.BadParameter(
                f"{place} is no CSV ({error}); close every quote, and double one that belongs to "
                "a value"
            ) from None
        if row is None:
            return
        if row:
            yield place, row


def _require_columns(path: Path, header: Sequence[str], layout: Layout) -> None:
    _require_distinct(str(path), header)
    missing = [name for name in layout.required if name not in header]
    if not missing:
        layout.require_known(str(path), header)
        return
    other = [named for separator, named in _SEPARATORS.items() if separator in header[0]]
    hint = (
        f"separate columns with commas, not {other[0]}"
        if other and len(header) == 1
        else f"its header has {', '.join(map(repr, header))}"
    )
    raise typer.BadParameter(f"{path} has no column {missing[0]!r}; {hint}")


def _require_distinct(place: str, names: Sequence[str]) -> None:
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise typer.BadParameter(f"{place} has {twice[0]!r} twice; keep one of them")


def _require_closed(place: str, fields: Mapping[str, str], layout: Layout) -> None:
    broken = [name for name, value in fields.items() if "\n" in value]
    if broken and not layout.several_lines:
        raise typer.BadParameter(
            f"{place} has a line's end in {broken[0]!r}; close the quote before it, or give "
            "values of several lines as .json"
        )
