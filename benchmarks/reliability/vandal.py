"""What the owner of a ledger's database can do to it, by direct SQL, each with a name.

Invariants: every tampering happens inside a transaction that its caller rolls back; the
triggers are taken out for it and put back, so that nothing but the rows gives it away; one
that the database itself refuses, or that changes nothing, is no tampering.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    Table,
    and_,
    delete,
    insert,
    select,
    text,
    update,
)

from errata_server.ledger import tables

WORKING: Final = {"operations"}
"""Tables that hold no evidence: an operation is forgotten on request."""

EVIDENCE: Final = tuple(t for t in tables.metadata.sorted_tables if t.name not in WORKING)
HASHED: Final = {
    "models": "body_digest",
    "profiles": "id",
    "edits": "digest",
    "reports": "id",
    "approvals": "digest",
    "suites": "digest",
    "revisions": "id",
}
"""Tables with bodies, and the column that is the body's digest."""

Values = dict[str, Any]
Dump = Mapping[str, Sequence[Values]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tampering:
    """One thing done to a ledger."""

    kind: str
    table: str
    perform: Callable[[Connection], object]


@contextmanager
def disarmed(connection: Connection) -> Iterator[None]:
    """No triggers inside the block, and all of them after it."""
    if connection.dialect.name == "sqlite":
        rows = connection.execute(
            text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        ).all()
        for name, _ in rows:
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        yield
        for _, definition in rows:
            connection.exec_driver_sql(definition)
        return
    for table in tables.metadata.tables:
        connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    yield
    for table in tables.metadata.tables:
        connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE TRIGGER ALL")


def dump(connection: Connection) -> Dump:
    """Every row of evidence."""
    return {
        table.name: [
            dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
            for row in connection.execute(select(table).order_by(*table.primary_key.columns))
        ]
        for table in EVIDENCE
    }


def key_of(table: Table, row: Values) -> Any:  # noqa: ANN401  # a condition
    """The condition that finds ``row``."""
    return and_(*(column == row[column.name] for column in table.primary_key.columns))


def changed_cells(rows: Dump, draw: random.Random) -> Iterator[Tampering]:
    """Each column of a random row of each table, set to something else."""
    for table in EVIDENCE:
        for column in table.columns:
            row = draw.choice(rows[table.name])
            value = _another(column, row[column.name], rows[table.name], draw)
            yield Tampering(
                kind="changed",
                table=table.name,
                perform=_setting(table, row, {column.name: value}),
            )


def forged_bodies(rows: Dump, draw: random.Random) -> Iterator[Tampering]:
    """A body says something else, and its digest is made to agree."""
    for name, digest in HASHED.items():
        row = draw.choice(rows[name])
        body = json.loads(bytes(row["body"]))
        _reword(body, draw)
        forged = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        values = {"body": forged.encode(), digest: _sha(forged.encode())}
        yield Tampering(
            kind="forged", table=name, perform=_setting(tables.metadata.tables[name], row, values)
        )


def dropped_rows(rows: Dump, draw: random.Random) -> Iterator[Tampering]:
    """A random row of each table is gone."""
    for table in EVIDENCE:
        row = draw.choice(rows[table.name])
        yield Tampering(kind="dropped", table=table.name, perform=_dropping(table, row))


def swapped_rows(rows: Dump, draw: random.Random) -> Iterator[Tampering]:
    """Two rows of a table exchange the content of a column."""
    for table in EVIDENCE:
        if len(rows[table.name]) < 2:
            continue
        for column in table.columns:
            first, second = draw.sample(rows[table.name], 2)
            yield Tampering(
                kind="swapped", table=table.name, perform=_swapping(table, first, second, column)
            )


def cut_tails(rows: Dump, draw: random.Random) -> Iterator[Tampering]:
    """The newest revisions are gone with what names them, and the branch is set back."""
    revisions = sorted(rows["revisions"], key=lambda row: row["sequence"])
    if len(revisions) > 1:
        kept = draw.randrange(1, len(revisions))
        yield Tampering(
            kind="tail cut",
            table="revisions",
            perform=lambda connection: cut_revisions(connection, revisions, kept),
        )
    for name in ("profiles", "edits", "reports", "approvals", "suites"):
        yield Tampering(kind="tail cut", table=name, perform=_cutting(name, rows))


def forks(rows: Dump, draw: random.Random) -> Iterator[Tampering]:
    """History is told anew from some revision on, every id and reference recomputed."""
    revisions = sorted(rows["revisions"], key=lambda row: row["sequence"])
    start = draw.randrange(1, len(revisions))
    actor = f"mallory-{draw.getrandbits(16)}"
    yield Tampering(
        kind="fork",
        table="revisions",
        perform=lambda connection: fork(connection, rows, start, actor),
    )


def backups(rows: Dump, old: Sequence[Dump], draw: random.Random) -> Iterator[Tampering]:
    """The ledger is what it was some time ago."""
    earlier = draw.choice([one for one in old if one != rows])
    yield Tampering(
        kind="old backup", table="all", perform=lambda connection: restore(connection, earlier)
    )


def cut_revisions(connection: Connection, revisions: Sequence[Values], kept: int) -> None:
    """Leave the first ``kept`` revisions of main, and what rests on no others."""
    for row in reversed(revisions[kept:]):
        uses, reports = tables.revision_edits.c, tables.reports
        connection.execute(delete(tables.revision_edits).where(uses.revision == row["id"]))
        connection.execute(delete(tables.revisions).where(tables.revisions.c.id == row["id"]))
        measured = select(reports).where(reports.c.model == row["model"])
        for report in connection.execute(measured).all():
            if json.loads(bytes(report.body))["against"] == row["id"]:
                _drop_edit(connection, report.edit)
    last = revisions[kept - 1]
    connection.execute(
        update(tables.branches)
        .where(tables.branches.c.name == last["branch"])
        .values(head=last["id"], sequence=last["sequence"])
    )


def _drop_edit(connection: Connection, edit: str) -> None:
    for table, column in ((tables.approvals, "edit"), (tables.reports, "edit")):
        connection.execute(delete(table).where(table.c[column] == edit))
    patch = connection.scalar(select(tables.edits.c.patch).where(tables.edits.c.id == edit))
    connection.execute(delete(tables.edits).where(tables.edits.c.id == edit))
    connection.execute(delete(tables.artifacts).where(tables.artifacts.c.digest == patch))


def fork(connection: Connection, rows: Dump, start: int, actor: str) -> None:
    """Write the revisions from sequence ``start`` on anew, as made by ``actor``."""
    parent = ""
    for row in sorted(rows["revisions"], key=lambda row: row["sequence"]):
        if row["sequence"] < start:
            parent = row["id"]
            continue
        body = json.loads(bytes(row["body"])) | {"parent": parent, "actor": actor}
        told = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        parent, old = _sha(told.encode()), row["id"]
        connection.execute(
            update(tables.revisions)
            .where(tables.revisions.c.id == old)
            .values(id=parent, parent=body["parent"], body=told.encode())
        )
        for table, column in ((tables.revision_edits, "revision"), (tables.branches, "head")):
            connection.execute(update(table).where(table.c[column] == old).values({column: parent}))


def restore(connection: Connection, earlier: Dump) -> None:
    """Make the ledger what ``earlier`` was."""
    for table in reversed(EVIDENCE):
        connection.execute(delete(table))
    for table in EVIDENCE:
        if earlier[table.name]:
            connection.execute(insert(table), list(earlier[table.name]))


def _setting(table: Table, row: Values, values: Values) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(
        update(table).where(key_of(table, row)).values(values)
    )


def _dropping(table: Table, row: Values) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(delete(table).where(key_of(table, row)))


def _swapping(
    table: Table, first: Values, second: Values, column: Column[Any]
) -> Callable[[Connection], object]:
    """Both rows are taken out first: a unique column would refuse the first of two updates."""

    def swap(connection: Connection) -> None:
        name = column.name
        mine = first | {name: second[name]}
        theirs = second | {name: first[name]}
        for row in (first, second):
            connection.execute(delete(table).where(key_of(table, row)))
        connection.execute(insert(table), [mine, theirs])

    return swap


def _cutting(name: str, rows: Dump) -> Callable[[Connection], object]:
    table = tables.metadata.tables[name]
    last = max(rows[name], key=lambda row: row["position"])
    if name == "edits":
        return lambda connection: _drop_edit(connection, last["id"])
    return _dropping(table, last)


def _another(
    column: Column[Any], value: object, rows: Sequence[Values], draw: random.Random
) -> object:
    if isinstance(value, bytes):
        spoilt = bytearray(value)
        spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
        return bytes(spoilt)
    if isinstance(value, int):
        return max(0, value + draw.choice((-1, 1, 2, 7)))
    others = sorted({str(row[column.name]) for row in rows} - {str(value)})
    if others and draw.random() < 0.5:
        return draw.choice(others)
    said = str(value)
    if len(said) == 64:
        return _sha(said.encode())
    return f"{said}x" if said else "x"


def _reword(body: dict[str, Any], draw: random.Random) -> None:
    """Change one text or number somewhere in a body."""
    names = [name for name, value in body.items() if isinstance(value, str | int | dict | list)]
    name = draw.choice(sorted(names))
    value = body[name]
    if isinstance(value, dict) and value:
        _reword(value, draw)
    elif isinstance(value, list):
        body[name] = [*value, *value[:1]] if value else ["x"]
    elif isinstance(value, bool | int):
        body[name] = int(value) + 1
    else:
        body[name] = f"{value}x"


def _sha(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


FAMILIES: Final = (changed_cells, forged_bodies, dropped_rows, swapped_rows, cut_tails, forks)
"""All but `backups`, which need to know what was."""
