"""A ledger in one file: gzip'd JSON Lines, read and written row by row (ADR 0022).

The first line is the heading, the last the SHA-256 of all lines before it; between them is a
line for each row, in the order of the heading's tables. Bytes are base64.

Invariants: one ledger gives one text, whatever database it is in; a file that is not whole is
never under the name that was asked for; nothing is read from a file as if it were right.
"""

import base64
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from errata_server.domain.errors import InvalidInputError, SchemaMismatchError

KIND: Final = "errata ledger"
FORMAT: Final = 1
LONGEST_LINE: Final = 1_500_000_000
"""Bytes: the largest value that SQLite holds, as base64 with room for the rest."""

LEVEL: Final = 6
"""Of compression; patches hardly shrink, reports to a tenth."""

Value = str | int | float | bytes | None
Fields = Sequence[Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedTable:
    """A table of an archive."""

    name: str
    columns: tuple[str, ...]
    binary: tuple[str, ...]
    """Those of the columns that hold bytes."""

    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What an archive says of itself."""

    schema: str
    """The migration its tables are those of."""

    version: str
    """Of the errata-server that wrote it."""

    models: tuple[str, ...]
    tables: tuple[ArchivedTable, ...]

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables)

    def to_line(self) -> bytes:
        """The first line."""
        return _line({"kind": KIND, "format": FORMAT, **asdict(self)})

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Inverse of `to_line`.

        Raises:
            SchemaMismatchError: a later version of errata wrote it, in another format.
            ValueError, KeyError, TypeError: it is something else.
        """
        fields = json.loads(line)
        if fields.pop("kind") != KIND:
            raise ValueError("it is of another kind")
        found = fields.pop("format")
        if found != FORMAT:
            raise SchemaMismatchError(
                f"the file is in format {found!r}, and this errata-server reads format {FORMAT}; "
                f"import it with errata-server {fields['version']} or later",
                format=found,
            )
        tables = [_table(**table) for table in fields.pop("tables")]
        texts = (fields["schema"], fields["version"], *fields["models"])
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("names must be texts")
        models = tuple(fields.pop("models"))
        return cls(models=models, tables=tuple(tables), **fields)


def _table(*, name: str, columns: list[str], binary: list[str], rows: int) -> ArchivedTable:
    if not all(isinstance(text, str) for text in (name, *columns)) or not set(binary) <= {*columns}:
        raise TypeError("tables and columns must have names")
    if type(rows) is not int or rows < 0:
        raise TypeError("rows must be counted")
    return ArchivedTable(name=name, columns=tuple(columns), binary=tuple(binary), rows=rows)


class ArchiveWriter:
    """Writes an archive under another name, and gives it its own once it is whole and on disk."""

    def __init__(self, path: Path, heading: Heading, *, replace: bool) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._replace = replace
        self._heading = heading
        self._digest = hashlib.sha256()
        self._file: BinaryIO
        self._lines: gzip.GzipFile

    def __enter__(self) -> Self:
        with _named_failure("write", self._path):
            require_free(self._path, replace=self._replace)
            self._file = self._partial.open("xb")
            # No name and no time: one ledger gives one file.
            self._lines = gzip.GzipFile(
                filename="", mode="wb", compresslevel=LEVEL, fileobj=self._file, mtime=0
            )
            self._write(self._heading.to_line())
        return self

    def add(self, table: ArchivedTable, fields: Fields) -> None:
        """Write a row.

        Raises:
            InvalidInputError: the file cannot be written.
        """
        shown = [
            base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value
            for value in fields
        ]
        if len(shown) != len(table.columns):
            raise ValueError(f"{table.name} has other columns")
        with _named_failure("write", self._path):
            self._write(_line(shown))

    def finish(self) -> str:
        """Close the archive and give it its name; the SHA-256 of its lines.

        Raises:
            InvalidInputError: the file cannot be written, or was made by somebody meanwhile.
        """
        digest = self._digest.hexdigest()
        with _named_failure("write", self._path):
            self._write(_line({"sha256": digest}))
            self._lines.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            require_free(self._path, replace=self._replace)
            if self._replace:
                self._partial.replace(self._path)
            else:
                os.link(self._partial, self._path)  # a rename would replace a file made meanwhile
            _sync_folder(self._path.parent)
        return digest

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # a full disk has been told of already
            self._lines.close()
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def _write(self, line: bytes) -> None:
        self._digest.update(line)
        self._lines.write(line)


def require_free(path: Path, *, replace: bool) -> None:
    """Do nothing if an archive may be written to ``path``.

    Raises:
        InvalidInputError: there is a file that is not to be replaced, or is no archive.
    """
    if not path.exists():
        return
    if not replace:
        raise InvalidInputError(
            f"{path} exists; name another file, or say --force to replace it", field="file"
        )
    try:
        with ArchiveReader(path):
            return
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{path} exists and is no ledger that was exported, so it is not replaced; "
            "name another file",
            field="file",
        ) from error


class ArchiveReader:
    """Reads an archive; what is wrong with it is found at the latest after its last row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._lines: gzip.GzipFile
        self.heading: Heading

    def __enter__(self) -> Self:
        with _named_failure("read", self._path):
            if not self._path.is_file():
                raise OSError("it is not a file")
            self._lines = gzip.GzipFile(self._path, "rb")
        try:
            with self._whole():
                self.heading = Heading.from_line(self._read())
        except BaseException:
            self._lines.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lines.close()

    def rows(self) -> Iterator[tuple[ArchivedTable, list[Value]]]:
        """Every row, and then whether the file ends as it should.

        Raises:
            InvalidInputError: the file is cut, changed or malformed.
        """
        for table in self.heading.tables:
            binary = [column in table.binary for column in table.columns]
            for _ in range(table.rows):
                with self._whole():
                    fields = _fields(json.loads(self._read()), binary)
                yield table, fields
        with self._whole():
            self._check_end()

    @property
    def digest(self) -> str:
        """The SHA-256 of the lines read so far."""
        return self._digest.hexdigest()

    def _check_end(self) -> None:
        digest = self.digest
        closing = json.loads(self._lines.readline(LONGEST_LINE))
        if closing != {"sha256": digest}:
            raise ValueError("its lines do not give its checksum")
        if self._lines.read(1):
            raise ValueError("there is something behind its end")

    def _read(self) -> bytes:
        line = self._lines.readline(LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise ValueError("it ends within a line")
        self._digest.update(line)
        return line

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Say what follows from garbage: the file is not what was exported."""
        try:
            yield
        except (
            OSError,
            EOFError,
            zlib.error,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            RecursionError,
        ) as error:
            raise InvalidInputError(
                f"{self._path} is not a whole export of a ledger ({error}); nothing was "
                "imported, use another copy of it",
                field="file",
            ) from error


def _fields(found: object, binary: Sequence[bool]) -> list[Value]:
    if not isinstance(found, list) or len(found) != len(binary):
        raise ValueError("a row has other columns than its table")
    return [_value(value, of_bytes) for value, of_bytes in zip(found, binary, strict=True)]


def _value(found: Any, of_bytes: bool) -> Value:  # noqa: ANN401, FBT001 - whatever JSON holds
    if type(found) not in {str, int, float, type(None)}:
        raise ValueError("a row holds something else than texts and numbers")
    if not of_bytes or found is None:
        value: Value = found
        return value
    return base64.b64decode(found, validate=True)


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _sync_folder(folder: Path) -> None:
    """Make a new name outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _named_failure(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInputError(
            f"cannot {what} {path}: {error.strerror or error}", field="file"
        ) from error
