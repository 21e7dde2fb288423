"""The part of the audit that holds the log against the rows it stands for.

Invariant: every row of a history has its entry and every entry its row, with that digest and in
that order; what is wrong with either is named once.
"""

from typing import Any

from sqlalchemy import Connection, select

from errata_server.domain.errors import LedgerCorruptError
from errata_server.domain.ids import ModelId
from errata_server.domain.log import LogEntry, LogKind
from errata_server.ledger import log, tables
from errata_server.ledger.findings import Findings

Place = tuple[Any, ...]


class LogAudit:
    """One model's log, entry by entry."""

    def __init__(self, connection: Connection, model: ModelId, findings: Findings) -> None:
        self._connection = connection
        self._model = model
        self._findings = findings
        self._rows: dict[tuple[LogKind, str], tuple[str, Place]] = {}
        self._last: dict[tuple[LogKind, Place], Any] = {}

    def check(self) -> int:
        """Check every entry; how many there are."""
        for kind in LogKind:
            for key, digest, place in log.rows_of(self._connection, self._model, kind):
                self._rows[kind, key] = (digest, place)
        columns = tables.log_entries.c
        statement = select(tables.log_entries).where(columns.model == self._model)
        expected = count = 0
        for row in self._connection.execute(statement.order_by(columns.position)):
            count += 1
            expected = self._findings.number("log_entries", row.position, expected)
            try:
                self._check(log.entry(row))
            except LedgerCorruptError as error:
                self._findings.add(log.log_row(row.position), error.metadata["problem"])
        for kind, key in self._rows:
            self._findings.add(log.logged_row(kind, key), "it has no entry in the log")
        return count

    def _check(self, entry: LogEntry) -> None:
        name, row = log.log_row(entry.position), log.logged_row(entry.kind, entry.key)
        found = self._rows.pop((entry.kind, entry.key), None)
        if found is None:
            self._findings.add(name, f"the {row} it stands for is missing")
            return
        digest, place = found
        if digest != entry.digest:
            self._findings.add(name, f"the {row} it stands for is another one")
        *line, number = place
        last = self._last.setdefault((entry.kind, tuple(line)), number)
        if number < last:
            self._findings.add(name, f"the {row} it stands for has changed places with a later one")
        self._last[entry.kind, tuple(line)] = max(last, number)
