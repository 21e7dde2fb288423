"""What every result has in common that can be drawn, tabled and stored.

Invariants: a file's suffix alone says what is written; a file is there whole or not at all; a
destination can be checked before the work is done. Neither numpy nor matplotlib is needed
until an array or a picture is asked for.
"""

import csv
import html
import io
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from errata import _arrays, _canvas, _documents, _figures
from errata._charts import Panel, Picture
from errata._errors import InvalidInputError, MissingExtraError

if TYPE_CHECKING:
    from errata._arrays import Array
    from errata._canvas import Figure

Cell = str | int | float | bool | None
Row = dict[str, Cell]

PICTURES: Final = (".png", ".svg", ".pdf")
DATA: Final = (".npz", ".json", ".csv")


class Exhibit(ABC):
    """A result that shows and stores itself."""

    __slots__ = ()

    SCHEMA: ClassVar[str]
    """Name and version of its document's form."""

    @abstractmethod
    def rows(self) -> list[Row]:
        """A tidy table: one measured value a row."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready document that names its schema."""
        return _documents.write(self, self.SCHEMA)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            InvalidInputError: it is another document, or malformed.
        """
        return _documents.read(cls, document, cls.SCHEMA)

    @abstractmethod
    def arrays(self) -> Mapping[str, Any]:
        """What `to_numpy` has, as nested sequences."""

    @abstractmethod
    def picture(self) -> Picture:
        """What `plot` draws, as data."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """The result in a line."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.summary}>"

    def to_json(self, indent: int | None = None) -> str:
        """The text of `to_dict`."""
        return _documents.to_json(self.to_dict(), indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Inverse of `to_json`.

        Raises:
            InvalidInputError: it is another document, or malformed.
        """
        return cls.from_dict(_documents.parse(text))

    def to_numpy(self) -> "dict[str, Array]":
        """Its numbers as arrays, by name.

        Raises:
            MissingExtraError: numpy is not installed.
        """
        return _arrays.arrays(self.arrays())

    def plot(self) -> "Figure":
        """Its picture.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return _figures.draw(self.picture())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as the suffix says: .npz, .json, .csv, .png, .svg or .pdf.

        Raises:
            InvalidInputError: the suffix is another, or the file cannot be written.
            MissingExtraError: numpy or matplotlib is needed and not installed.
        """
        destination = check_destination(path)
        writers: dict[str, Callable[[], bytes]] = {
            ".json": lambda: self.to_json(indent=2).encode() + b"\n",
            ".csv": lambda: _csv(self.rows()).encode(),
            ".npz": lambda: _arrays.archive(self.to_numpy(), self.to_json()),
        }
        suffix = destination.suffix.lower()
        write = writers.get(suffix, lambda: _canvas.image(self.plot(), suffix))
        _write_whole(destination, write())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote as .npz or .json.

        Raises:
            InvalidInputError: the file cannot be read, or holds something else.
            MissingExtraError: it is an .npz file and numpy is not installed.
        """
        source = Path(path)
        try:
            content = source.read_bytes()
        except OSError as error:
            raise InvalidInputError(f"cannot read {source}: {error.strerror}") from error
        try:
            packed = source.suffix.lower() == ".npz"
            return cls.from_json(_arrays.document(content) if packed else content)
        except InvalidInputError as error:
            raise InvalidInputError(f"{source}: {error}", error.metadata) from error

    def _repr_html_(self) -> str:
        """For notebooks: the picture, or tables where matplotlib is not installed."""
        picture = self.picture()
        try:
            drawn = _canvas.image(self.plot(), ".svg").decode()
        except MissingExtraError:
            return _html_tables(picture)
        svg = drawn[drawn.index("<svg") :]
        described = html.escape(picture.words, quote=True)
        return f'<div role="img" aria-label="{described}" style="max-width:100%">{svg}</div>'


def check_destination(
    path: str | os.PathLike[str], suffixes: Iterable[str] = (*DATA, *PICTURES)
) -> Path:
    """The path of a file that can be written, as far as that can be known before.

    Raises:
        InvalidInputError: its suffix is none of ``suffixes``, or it cannot be written.
        MissingExtraError: what its suffix needs is not installed.
    """
    destination, known = Path(path), tuple(suffixes)
    suffix = destination.suffix.lower()
    if suffix not in known:
        raise InvalidInputError(
            f"{destination} must end in {', '.join(known[:-1])} or {known[-1]}",
            {"path": str(destination)},
        )
    _require_writable(destination)
    if suffix in PICTURES:
        _canvas.require()
    elif suffix == ".npz":
        _arrays.require()
    return destination


def _require_writable(destination: Path) -> None:
    folder = destination.parent
    if "\0" in str(destination):
        problem = "a name cannot hold a null character"
    elif not folder.is_dir():
        problem = f"there is no folder {folder}"
    elif os.path.isdir(destination):  # says no where Path.is_dir raises: a name too long
        problem = "it is a folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"the folder {folder} is not yours to write to"
    else:
        return
    raise InvalidInputError(f"cannot write {destination}: {problem}", {"path": str(destination)})


def _write_whole(destination: Path, content: bytes) -> None:
    """Write beside the destination first, so that nobody ever reads half a file."""
    target = destination.resolve()
    draft = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        draft.write_bytes(content)
        draft.replace(target)
    except OSError as error:
        raise InvalidInputError(
            f"cannot write {destination}: {error.strerror}", {"path": str(destination)}
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _html_tables(picture: Picture) -> str:
    tables = "".join(_html_table(panel) for panel in picture.panels)
    return (
        f"<div><p><b>{html.escape(picture.title)}</b><br>{html.escape(picture.subtitle)}</p>"
        f"{tables}<p><small>{html.escape(picture.caption)}</small></p></div>"
    )


def _html_table(panel: Panel) -> str:
    chart = panel.chart
    head = "".join(f"<th>{html.escape(column)}</th>" for column in chart.columns)
    body = "".join(
        f"<tr><th>{html.escape(row)}</th>"
        + "".join(f"<td>{'' if value is None else f'{value:.3g}'}</td>" for value in values)
        + "</tr>"
        for row, values in zip(chart.rows, chart.values, strict=True)
    )
    named = html.escape(f"{chart.title} ({chart.unit})")
    return (
        f"<table><caption>{named}</caption><thead><tr><th>{html.escape(chart.row_axis)} / "
        f"{html.escape(chart.column_axis)}</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
