"""Ledgers that earlier releases wrote, as rows (`tools/release_ledger.py`), put into databases.

Read and written here without the code under test: raw rows, in the order of their numbers.
"""

import base64
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command

from errata_server.ledger.database import ledger_engine, unhurried
from errata_server.ledger.schema import alembic_config
from tests.support.tampering import raw_connection

FOLDER = Path(__file__).parents[1] / "ledger" / "releases"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))
NUMBERS = {"sequence", "position"}

Rows = dict[str, list[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What a release wrote, and what it said of it."""

    schema: str
    text: bytes
    said: dict[str, Any]
    columns: dict[str, list[str]]
    rows: Rows
    """By table, in the order of their primary keys."""

    def archive(self, path: Path) -> Path:
        """The release's ledger as an archive."""
        path.write_bytes(gzip.compress(self.text))
        return path

    def load(self, url: str) -> None:
        """Put the rows into the empty database at ``url``, with the release's schema."""
        migrate_to(url, self.schema)
        connection = raw_connection(url)
        mark = "?" if url.startswith("sqlite") else "%s"
        for table, rows in self.rows.items():
            columns = self.columns[table]
            numbers = [number for number, name in enumerate(columns) if name in NUMBERS]
            marks = ", ".join(mark for _ in columns)
            for row in sorted(rows, key=lambda row: [row[number] for number in numbers]):
                connection.execute(
                    f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", row
                )
        connection.close()

    def found(self, url: str) -> Rows:
        """The rows of the release's tables that are in the database at ``url``."""
        connection = raw_connection(url)
        found = {
            table: sorted(
                connection.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
            )
            for table, columns in self.columns.items()
        }
        connection.close()
        return found


def read_release(name: str) -> Release:
    """The release whose schema was called so."""
    content = (FOLDER / f"{name}.jsonl").read_bytes()
    heading, *lines = [json.loads(line) for line in content.splitlines()][:-1]
    rows: Rows = {}
    remaining = iter(lines)
    for table in heading["tables"]:
        binary = [column in table["binary"] for column in table["columns"]]
        rows[table["name"]] = [
            tuple(
                base64.b64decode(value) if of_bytes else value
                for value, of_bytes in zip(next(remaining), binary, strict=True)
            )
            for _ in range(table["rows"])
        ]
    assert next(remaining, None) is None
    return Release(
        schema=heading["schema"],
        text=content,
        said=json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")),
        columns={table["name"]: table["columns"] for table in heading["tables"]},
        rows={table: sorted(found) for table, found in rows.items()},
    )


def migrate_to(url: str, revision: str, *, down: bool = False) -> None:
    """Bring the database at ``url`` to a schema, in one transaction."""
    engine = ledger_engine(url)
    config = alembic_config()
    try:
        with engine.begin() as connection:
            unhurried(connection)
            config.attributes["connection"] = connection
            (command.downgrade if down else command.upgrade)(config, revision)
    finally:
        engine.dispose()
