"""A whole ledger, from an archive into an empty database.

Invariants: the archive is read to its end before the database is touched; everything, from
the schema to the audit, is one transaction, so a refused import leaves the database as it
was; ids and digests stay what they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, LargeBinary, MetaData, Table, func, insert, inspect, select, text
from sqlalchemy.exc import DataError, IntegrityError

from errata_server.domain.errors import (
    InvalidInputError,
    LedgerCorruptError,
    PreconditionError,
    SchemaMismatchError,
)
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.ledger.archives import ArchivedTable, ArchiveReader, Heading, Value
from errata_server.ledger.database import Database
from errata_server.ledger.exports import ROWS_A_STEP, Contents, exported_tables, heads
from errata_server.ledger.integrity import check_everything
from errata_server.ledger.migrate import lock_schema, remove_schema, upgrade
from errata_server.ledger.schema import is_known, require_current_schema, stored_schema
from errata_server.ledger.triggers import suspended_triggers
from errata_server.ledger.urls import SQLITE, read_url

BATCH_ROWS: Final = 200
BATCH_BYTES: Final = 4 * 1024 * 1024
"""Rows, and bytes of them, that are stored together."""

SHOWN_FINDINGS: Final = 5
VERSION_TABLE: Final = "alembic_version"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verified:
    """An archive that has been read to its end."""

    path: Path
    heading: Heading
    digest: str


def import_ledger(url: str, path: Path, progress: ReportProgress) -> Contents:
    """Fill the empty ledger at ``url`` with what ``path`` holds, and audit it before it counts.

    The database gets the newest schema, whichever one the archive has. No server may have a
    SQLite file open meanwhile.

    Raises:
        InvalidInputError: the file is cut, changed or malformed.
        SchemaMismatchError: a newer errata-server wrote it, or migrated the database.
        PreconditionError: the ledger is not empty.
        LedgerCorruptError: what the file holds does not pass an audit.
        LedgerUnavailableError: the database does not answer, or a server holds the file.
    """
    verified = _verify(path, progress)
    with _target(url) as database, database.writing() as connection:
        lock_schema(connection)
        _require_empty(connection)
        _prepare_schema(connection, verified.heading)
        with suspended_triggers(connection):
            _store(connection, verified, progress)
        upgrade(connection)
        _require_sound(connection, verified, progress)
        return Contents(
            schema=stored_schema(connection),
            digest=verified.digest,
            rows={table.name: table.rows for table in verified.heading.tables},
            heads=heads(connection),
        )


def _verify(path: Path, progress: ReportProgress) -> _Verified:
    with ArchiveReader(path) as archive:
        heading = archive.heading
        if not is_known(heading.schema):
            raise SchemaMismatchError(
                f"{path} was exported by errata-server {heading.version} with schema "
                f"{heading.schema}, which this version does not know; import it with that "
                "version or a later one",
                schema=heading.schema,
            )
        for done, _ in enumerate(archive.rows()):
            if done % ROWS_A_STEP == 0:
                progress(Progress(stage="check", done=done, total=heading.rows))
        progress(Progress(stage="check", done=heading.rows, total=heading.rows))
        return _Verified(path=path, heading=heading, digest=archive.digest)


@contextmanager
def _target(url: str) -> Iterator[Database]:
    """The database to import into, claimed; a SQLite file made here goes if that fails."""
    parsed = read_url(url)
    file = Path(parsed.driver.database or "") if parsed.kind == SQLITE else None
    made = file is not None and not file.exists()
    database = Database(url)
    try:
        with database.reading():  # makes the file
            pass
        database.claim()
        yield database
    except BaseException:
        database.close()
        if made and file is not None:
            for suffix in ("", "-wal", "-shm"):
                file.with_name(f"{file.name}{suffix}").unlink(missing_ok=True)
        raise
    database.close()


def _require_empty(connection: Connection) -> None:
    """Refuse a database with rows, and keep others from adding some."""
    found = {table: 0 for table in inspect(connection).get_table_names() if table != VERSION_TABLE}
    known = found.keys() & {table.name for table in exported_tables()}
    if found and not stored_schema(connection):
        raise PreconditionError(
            f"the database holds tables that are not errata's ({', '.join(sorted(found)[:3])}); "
            "import into a database of its own",
        )
    quoted = {name: connection.dialect.identifier_preparer.quote(name) for name in known}
    if known and connection.dialect.name == "postgresql":
        names = ", ".join(sorted(quoted.values()))
        connection.execute(text(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE"))
    for name in known:
        counted = select(func.count()).select_from(text(quoted[name]))
        found[name] = connection.scalar(counted) or 0
    held = {name: rows for name, rows in sorted(found.items()) if rows}
    if held:
        shown = ", ".join(f"{rows} {name}" for name, rows in held.items())
        raise PreconditionError(
            f"the ledger is not empty ({shown}); import into a new database, then point the "
            "server at it",
            rows=shown,
        )


def _prepare_schema(connection: Connection, heading: Heading) -> None:
    """Give an empty ledger the schema of the archive."""
    stored = stored_schema(connection)
    if stored == heading.schema:
        return
    if stored and not is_known(stored):
        require_current_schema(connection)  # says what to do about a newer one
    if stored:
        remove_schema(connection)
    upgrade(connection, heading.schema)


def _store(connection: Connection, verified: _Verified, progress: ReportProgress) -> None:
    targets = _targets(connection, verified)
    with ArchiveReader(verified.path) as archive:
        batch, size, current = list[dict[str, Value]](), 0, ""
        done = 0
        end: Iterator[tuple[ArchivedTable | None, list[Value]]] = iter([(None, [])])
        for table, fields in chain(archive.rows(), end):
            full = len(batch) == BATCH_ROWS or size > BATCH_BYTES
            if batch and (full or table is None or table.name != current):
                _insert(connection, targets[current], batch)
                batch, size = [], 0
            if table is None:
                break
            current = table.name
            batch.append(dict(zip(table.columns, fields, strict=True)))
            size += sum(len(value) for value in fields if isinstance(value, str | bytes))
            if done % ROWS_A_STEP == 0:
                progress(Progress(stage="import", done=done, total=verified.heading.rows))
            done += 1
        progress(Progress(stage="import", done=done, total=verified.heading.rows))
        if (archive.digest, archive.heading) != (verified.digest, verified.heading):
            raise InvalidInputError(
                f"{verified.path} was changed while it was imported; nothing was imported",
                field="file",
            )


def _targets(connection: Connection, verified: _Verified) -> dict[str, Table]:
    """The tables of the archive's schema as they are in the database."""
    there = set(inspect(connection).get_table_names()) - {VERSION_TABLE}
    archived = {table.name: table for table in verified.heading.tables}
    wanted = there & {table.name for table in exported_tables()}
    if not wanted <= archived.keys() <= there:
        raise _foreign(verified, "it has other tables than its schema")
    targets = {}
    for name, table in archived.items():
        target = Table(name, MetaData(), autoload_with=connection, resolve_fks=False)
        binary = {column.name for column in target.c if isinstance(column.type, LargeBinary)}
        if set(table.columns) != set(target.c.keys()) or set(table.binary) != binary:
            raise _foreign(verified, f"its {name} have other columns than its schema")
        targets[name] = target
    return targets


def _insert(connection: Connection, table: Table, rows: list[dict[str, Value]]) -> None:
    try:
        connection.execute(insert(table), rows)
    except IntegrityError as error:
        raise InvalidInputError(
            f"the file's {table.name} break a key or a constraint; nothing was imported, use "
            "another copy of it",
            field="file",
        ) from error
    except DataError as error:
        raise InvalidInputError(
            f"{connection.dialect.name} cannot store a value of the file's {table.name}, such as "
            "a NUL character in a text; nothing was imported",
            field="file",
        ) from error


def _require_sound(connection: Connection, verified: _Verified, progress: ReportProgress) -> None:
    checked = check_everything(connection, progress)
    if tuple(checked.models) != verified.heading.models:
        raise _foreign(verified, "it has other models than it says")
    if checked.clean:
        return
    shown = "; ".join(f"{f.row}: {f.problem}" for f in checked.findings[:SHOWN_FINDINGS])
    more = len(checked.findings) - SHOWN_FINDINGS
    raise LedgerCorruptError(
        f"what {verified.path} holds does not pass the audit ({shown}"
        + (f"; and {more} more" if more > 0 else "")
        + "); nothing was imported, use another backup",
        findings=len(checked.findings),
    )


def _foreign(verified: _Verified, problem: str) -> InvalidInputError:
    return InvalidInputError(
        f"{verified.path} was not written by errata-server ({problem}); nothing was imported",
        field="file",
    )
