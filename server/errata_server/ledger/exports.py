"""A whole ledger, from a database that may be in use, into an archive.

Invariants: all rows are of one state of the database; a table is exported because it is in
`tables.metadata`, unless it says `tables.NOT_EXPORTED`, and a column as it is unless it says
`tables.EXPORTED_AS`; memory does not grow with the ledger.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    LargeBinary,
    Table,
    Text,
    collate,
    func,
    literal,
    select,
)

from errata_server.domain.operations import Progress, ReportProgress
from errata_server.ledger.archives import ArchivedTable, ArchiveWriter, Heading
from errata_server.ledger.database import Database, unhurried
from errata_server.ledger.schema import require_current_schema, stored_schema
from errata_server.ledger.tables import EXPORTED_AS, NOT_EXPORTED, metadata
from errata_server.ledger.tables import branches as branches_table
from errata_server.ledger.tables import models as models_table
from errata_server.version import VERSION

ROWS_AT_ONCE: Final = 32
"""Rows fetched together; an artifact may have megabytes."""

ROWS_A_STEP: Final = 500
"""Rows between two reports of progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What an archive holds, or a ledger that was read from one."""

    schema: str
    digest: str
    """SHA-256 of the archive's lines."""

    rows: dict[str, int]
    """By table."""

    heads: dict[str, str]
    """The newest revision's id, by model and branch as ``model/branch``."""


def export_ledger(
    database: Database, path: Path, *, replace: bool, progress: ReportProgress
) -> Contents:
    """Write everything in ``database`` to ``path``, as it is at one instant.

    Args:
        replace: Whether an archive that is there already may be replaced.

    Raises:
        InvalidInputError: the file exists or cannot be written.
        SchemaMismatchError: the ledger must be migrated first, or is newer than this server.
        LedgerUnavailableError: the database does not answer.
    """
    database.require_file()
    with database.reading() as connection:
        unhurried(connection)
        require_current_schema(connection)
        heading = _heading(connection)
        with ArchiveWriter(path, heading, replace=replace) as archive:
            done = 0
            for table in heading.tables:
                with _rows(connection, metadata.tables[table.name]) as rows:
                    for row in rows:
                        if done % ROWS_A_STEP == 0:
                            progress(Progress(stage="export", done=done, total=heading.rows))
                        archive.add(table, row)
                        done += 1
            digest = archive.finish()
        progress(Progress(stage="export", done=done, total=heading.rows))
        return Contents(
            schema=heading.schema,
            digest=digest,
            rows={table.name: table.rows for table in heading.tables},
            heads=heads(connection),
        )


def heads(connection: Connection) -> dict[str, str]:
    """The newest revision's id of every branch, by ``model/branch``."""
    columns = branches_table.c
    rows = connection.execute(select(columns.model, columns.name, columns.head))
    return dict(sorted((f"{row.model}/{row.name}", row.head) for row in rows))


def exported_tables() -> list[Table]:
    """The tables that are part of an export, referred to before referring."""
    return [table for table in metadata.sorted_tables if table.info != NOT_EXPORTED]


def _heading(connection: Connection) -> Heading:
    models = connection.scalars(select(models_table.c.id)).all()
    return Heading(
        schema=stored_schema(connection),
        version=VERSION,
        models=tuple(sorted(models)),
        tables=tuple(
            ArchivedTable(
                name=table.name,
                columns=tuple(table.c.keys()),
                binary=tuple(c.name for c in table.c if isinstance(c.type, LargeBinary)),
                rows=connection.scalar(select(func.count()).select_from(table)) or 0,
            )
            for table in exported_tables()
        ),
    )


def _rows(connection: Connection, table: Table) -> CursorResult[*tuple[Any, ...]]:
    """The rows in the order of the primary key, letters by their bytes on both databases."""
    key = [_ordered(connection, column) for column in table.primary_key.columns]
    shown = [_shown(column) for column in table.c]
    statement = (
        select(*shown).select_from(table).order_by(*key).execution_options(yield_per=ROWS_AT_ONCE)
    )
    return connection.execute(statement)


def _shown(column: Column[Any]) -> ColumnElement[Any]:
    if EXPORTED_AS in column.info:
        return literal(column.info[EXPORTED_AS], column.type).label(column.name)
    return column


def _ordered(connection: Connection, column: ColumnElement[Any]) -> ColumnElement[Any]:
    if connection.dialect.name == "postgresql" and isinstance(column.type, Text):
        return collate(column, "C")
    return column
