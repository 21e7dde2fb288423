"""The suite `tampering`: is every change behind errata's back found?

A ledger is written by the ledger's own functions, and then tampered with by direct SQL as the
owner of the database may, over every table and column of evidence, one tampering at a time.
Each must be found by the audit, or by somebody who kept a checkpoint: here the newest
revision's id, as `errata log` shows it.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DBAPIError

from benchmarks.document import Document
from benchmarks.reliability import vandal
from benchmarks.reliability.chronicle import Chronicle
from benchmarks.reliability.databases import opened, stores
from benchmarks.reliability.options import Options, log
from benchmarks.reliability.vandal import Dump, Tampering
from benchmarks.reliability.writes import author
from errata_server.domain.errors import ErrataError
from errata_server.domain.ids import ModelId
from errata_server.ledger import tables
from errata_server.ledger.audit import audit
from errata_server.ledger.database import ledger_engine

ROUNDS: Final = 1_000
"""Tamperings, over all databases together."""

EDITS: Final = 10
CHAPTERS: Final = 6
"""Parts of the history; between two a backup is made."""


@dataclass(slots=True)
class TamperingTally:
    """What was found, by kind and table."""

    tamperings: int = 0
    refused: int = 0
    """What the database itself did not allow."""

    found_by_audit: int = 0
    found_by_checkpoint: int = 0
    """What the audit alone does not see."""

    missed: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What somebody wrote down elsewhere."""

    model: ModelId
    revision: str
    sequence: int

    def contradicts(self, connection: Connection) -> bool:
        """Whether the ledger no longer has what was written down."""
        columns = tables.revisions.c
        found = connection.scalar(
            select(columns.sequence).where(columns.model == self.model, columns.id == self.revision)
        )
        return found != self.sequence


def write_history(url: str, seed: int) -> tuple[Checkpoint, list[Dump]]:
    """A ledger with something in every table; what to write down of it, and its backups."""
    draw, engine, copies = random.Random(seed), ledger_engine(url), []
    with opened(url) as ledger:
        written = author(ledger, Chronicle(draw=draw, subjects=5), edits=EDITS)
        for _ in range(CHAPTERS):
            for _ in range(4):
                change, after = written.change()
                change.perform(ledger)
                written.note(change, after)
            for write in (*written.propose(), written.approve(), written.suite()):
                write.perform(ledger)
                written.note(write)
            with engine.connect() as connection:
                copies.append(vandal.dump(connection))
        engine.dispose()
        head = ledger.head(written.chronicle.model)
    return Checkpoint(model=head.model, revision=head.id, sequence=head.sequence), copies


def tamperings(copies: Sequence[Dump], draw: random.Random) -> Iterator[Tampering]:
    """Without end: every family in turn, each over what it is about."""
    rows = copies[-1]
    while True:
        for family in vandal.FAMILIES:
            yield from family(rows, draw)
        yield from vandal.backups(rows, copies, draw)


def try_one(
    engine: Engine, tampering: Tampering, checkpoint: Checkpoint, tally: TamperingTally
) -> None:
    """Tamper, look, and take it back."""
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            driver = connection.connection.dbapi_connection
            if driver is not None:
                driver.execute("PRAGMA foreign_keys = OFF")
        before = vandal.dump(connection)
        try:
            with vandal.disarmed(connection):
                tampering.perform(connection)
        except DBAPIError:
            tally.refused += 1
        else:
            if vandal.dump(connection) != before:
                _judge(connection, tampering, checkpoint, tally)
        connection.rollback()


def _judge(
    connection: Connection, tampering: Tampering, checkpoint: Checkpoint, tally: TamperingTally
) -> None:
    tally.tamperings += 1
    tally.kinds[tampering.kind] += 1
    if audit_objects(connection, checkpoint.model):
        tally.found_by_audit += 1
    elif checkpoint.contradicts(connection):
        tally.found_by_checkpoint += 1
    else:
        tally.missed[f"{tampering.kind}: {tampering.table}"] += 1


def audit_objects(connection: Connection, model: ModelId) -> bool:
    """Whether an audit finds anything."""
    try:
        return not audit(connection, model).clean
    except ErrataError:
        return True


def play(url: str, count: int, seed: int, tally: TamperingTally) -> None:
    """So many tamperings with one ledger."""
    checkpoint, copies = write_history(url, seed)
    engine, wanted = ledger_engine(url), tally.tamperings + count
    for tampering in tamperings(copies, random.Random(seed)):
        if tally.tamperings >= wanted:
            break
        try_one(engine, tampering, checkpoint, tally)
    engine.dispose()


def run(options: Options) -> Document:
    """As many tamperings as ``options`` say, evenly over the databases."""
    tally = TamperingTally()
    with stores(options.kinds) as found:
        for store in found:
            count = -(-options.rounds // len(found))
            log.print(f"{store.kind}: {count} tamperings")
            with store.ledger() as url:
                play(url, count, options.seed, tally)
    return Document(
        benchmark="reliability tampering",
        settings=options.settings,
        figures={
            "tamperings": tally.tamperings,
            "refused": tally.refused,
            "found_by_audit": tally.found_by_audit,
            "found_by_checkpoint": tally.found_by_checkpoint,
            "missed": sum(tally.missed.values()),
        },
        details={"kinds": dict(tally.kinds), "missed": dict(tally.missed)},
    )
