"""What somebody who owns the database can do to a ledger behind errata's back.

Each operation works on a raw connection that errata knows nothing of, with the triggers out of
the way, and says in words what it did. Those of `CLUMSY` leave something that does not fit
together, which the audit finds; those of `CONSISTENT` leave a ledger that is in order by itself,
which only a ledger checkpoint kept elsewhere can tell from the true one. Those of `REHASHED` leave
one or the other: a kept checkpoint finds them all.
"""

import hashlib
import json
import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import psycopg

from errata_server.ledger.tables import metadata

Raw = sqlite3.Connection | psycopg.Connection[Any]

DIGESTS: Final = {
    "models": "body_digest",
    "profiles": "id",
    "edits": "digest",
    "reports": "id",
    "approvals": "digest",
    "suites": "digest",
    "revisions": "id",
}
"""Tables with bodies, and the column that holds the body's digest."""

KINDS: Final = {
    "models": "model",
    "profiles": "profile",
    "edits": "edit",
    "reports": "report",
    "approvals": "approval",
    "suites": "suite",
    "revisions": "revision",
}
"""How the log names rows of each table."""

_HISTORY: Final = (*DIGESTS, "revision_edits", "log_entries")


def raw_connection(url: str) -> Raw:
    """A connection that errata knows nothing of and has set nothing on."""
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    return psycopg.connect(url, autocommit=True)


def disarm(connection: Raw) -> Callable[[], None]:
    """Drop the triggers, and no longer enforce foreign keys; what puts them back."""
    if isinstance(connection, sqlite3.Connection):
        return partial(_run_all, connection, _drop_triggers(connection))
    own = connection.execute(
        "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal"
    ).fetchall()
    for table in metadata.tables:
        connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    enable = [f"ALTER TABLE {table} ENABLE TRIGGER ALL" for table in metadata.tables]
    enable += [f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}" for table, name in own]
    return partial(_run_all, connection, enable)


def _drop_triggers(connection: sqlite3.Connection) -> list[str]:
    """Drop every trigger; the statements that make them again."""
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    found = connection.execute(query).fetchall()
    for name, _ in found:
        connection.execute(f"DROP TRIGGER {name}")
    return [statement for _, statement in found]


def _run_all(connection: Raw, statements: Sequence[str]) -> None:
    for statement in statements:
        connection.execute(statement)


@contextmanager
def tampering(url: str, *, rearm: bool = False) -> Iterator[Callable[[str], Any]]:
    """Runs statements that the ledger's triggers would refuse, all in one transaction.

    Args:
        url: The ledger's database.
        rearm: Put the triggers back afterwards, so that nobody sees that they were gone.
    """
    with hand(url, rearm=rearm) as found:
        yield found.run


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """Whoever owns the database, at work."""

    connection: Raw

    def run(self, statement: str, values: Sequence[object] = ()) -> Any:  # noqa: ANN401 - a cursor
        """Run one statement; write ``?`` for each of ``values``."""
        if isinstance(self.connection, psycopg.Connection):
            return self.connection.execute(statement.replace("?", "%s"), values or None)
        return self.connection.execute(statement, tuple(values))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Every row of a table in the order of its key."""
        columns = [column.name for column in metadata.tables[table].columns]
        keys = ", ".join(column.name for column in metadata.tables[table].primary_key.columns)
        found = self.run(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {keys}")  # noqa: S608
        return [dict(zip(columns, row, strict=True)) for row in found.fetchall()]

    def update(self, table: str, row: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Give a row other values."""
        keys = [column.name for column in metadata.tables[table].primary_key.columns]
        setting = ", ".join(f"{name} = ?" for name in values)
        where = " AND ".join(f"{name} = ?" for name in keys)
        self.run(
            f"UPDATE {table} SET {setting} WHERE {where}",  # noqa: S608 - our own names
            [*values.values(), *(row[name] for name in keys)],
        )

    def delete(self, table: str, row: Mapping[str, Any]) -> None:
        """Remove a row."""
        keys = [column.name for column in metadata.tables[table].primary_key.columns]
        where = " AND ".join(f"{name} = ?" for name in keys)
        self.run(f"DELETE FROM {table} WHERE {where}", [row[name] for name in keys])  # noqa: S608

    def insert(self, table: str, row: Mapping[str, Any]) -> None:
        """Add a row."""
        places = ", ".join("?" for _ in row)
        self.run(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})",  # noqa: S608
            list(row.values()),
        )


@contextmanager
def hand(url: str, *, rearm: bool = False) -> Iterator[Hand]:
    """Somebody at work on the database at ``url``, in one transaction, the triggers gone."""
    connection = raw_connection(url)
    try:
        arm = disarm(connection)
        connection.execute("BEGIN")
        yield Hand(connection=connection)
        connection.execute("COMMIT")
        if rearm:
            arm()
    finally:
        connection.close()


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _forged(body: bytes, chooser: random.Random) -> bytes:
    """A body that says something else in one of its texts, spelled as canonically."""
    fields = json.loads(body)
    texts = [name for name, value in fields.items() if isinstance(value, str)]
    name = chooser.choice(sorted(texts))
    fields[name] = f"{fields[name]}x"
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


# Clumsy: what is left does not fit together ------------------------------------------------


def change_a_row(found: Hand, chooser: random.Random) -> str:
    """Let a row say something else, its own digest computed again."""
    table = chooser.choice([name for name in DIGESTS if found.rows(name)])
    row = chooser.choice(found.rows(table))
    body = _forged(bytes(row["body"]), chooser)
    found.update(table, row, {"body": body, DIGESTS[table]: _digest(body)})
    return f"changed a row of {table} and its digest"


def change_a_row_and_its_entry(found: Hand, chooser: random.Random) -> str:
    """The same, with the log's entry brought into line, which changes the log's root."""
    table = chooser.choice([name for name in DIGESTS if found.rows(name)])
    row = chooser.choice(found.rows(table))
    body = _forged(bytes(row["body"]), chooser)
    digest, column = _digest(body), DIGESTS[table]
    found.update(table, row, {"body": body, column: digest})
    keys = "digest = ?, key = ?" if column == "id" and table != "profiles" else "digest = ?"
    found.run(
        f"UPDATE log_entries SET {keys} WHERE kind = ? AND digest = ?",  # noqa: S608
        [*([digest] * keys.count("?")), KINDS[table], row[column]],
    )
    return f"changed a row of {table}, its digest and its log entry"


def drop_a_row(found: Hand, chooser: random.Random) -> str:
    """Remove one row."""
    table = chooser.choice([name for name in _HISTORY if found.rows(name)])
    found.delete(table, chooser.choice(found.rows(table)))
    return f"dropped a row of {table}"


def swap_rows(found: Hand, chooser: random.Random) -> str:
    """Let two rows of a kind change places."""
    numbered = ("profiles", "edits", "reports", "approvals", "suites", "log_entries")
    table = chooser.choice([name for name in numbered if len(found.rows(name)) > 1])
    first, second = chooser.sample(found.rows(table), 2)
    keys = [column.name for column in metadata.tables[table].primary_key.columns]
    away = {"position": 2**30}
    found.update(table, first, away)
    found.update(table, second, {"position": first["position"]})
    moved = first | away if "position" in keys else first
    found.update(table, moved, {"position": second["position"]})
    return f"swapped two rows of {table}"


def swap_entries(found: Hand, chooser: random.Random) -> str:
    """Let two log entries change places, as if their rows had been committed in that order."""
    first, second = chooser.sample(found.rows("log_entries"), 2)
    said = [{name: row[name] for name in ("kind", "key", "digest")} for row in (first, second)]
    found.update("log_entries", first, {"key": "elsewhere"})
    found.update("log_entries", second, said[0])
    found.update("log_entries", first, said[1])
    return f"swapped the log entries {first['position']} and {second['position']}"


CLUMSY: Final = (change_a_row, drop_a_row, swap_rows)
REHASHED: Final = (change_a_row_and_its_entry, swap_entries)

# Consistent: only a kept checkpoint tells ---------------------------------------------------


def cut_the_tail(found: Hand, chooser: random.Random) -> str:
    """Remove the newest entries of the log with the rows they stand for, and move heads back."""
    entries = found.rows("log_entries")
    genesis = next(e["position"] for e in entries if e["kind"] == "revision")
    start = chooser.randrange(genesis + 1, len(entries))
    while start > genesis + 1 and entries[start]["kind"] == "report":
        start -= 1  # an edit without its first report would be noticed
    tables = {kind: table for table, kind in KINDS.items()}
    for entry in reversed(entries[start:]):
        table = tables[entry["kind"]]
        column = "id" if "id" in metadata.tables[table].c and table != "profiles" else "position"
        for row in found.rows(table):
            if str(row[column]) == entry["key"]:
                found.run("DELETE FROM revision_edits WHERE revision = ?", [entry["key"]])
                found.delete(table, row)
        found.delete("log_entries", entry)
    _point_at_last_revisions(found)
    return f"cut the log from entry {start} on, with everything it stood for"


def rewrite_history(found: Hand, chooser: random.Random) -> str:
    """Let one revision name another actor, and compute everything after it anew."""
    entries = found.rows("log_entries")
    made = [entry for entry in entries if entry["kind"] == "revision"]
    start = chooser.choice(made)["position"]
    renamed: dict[str, str] = {}
    tables = {kind: table for table, kind in KINDS.items()}
    for entry in entries[start:]:
        table = tables[entry["kind"]]
        digest = DIGESTS[table]
        row = next(row for row in found.rows(table) if row[digest] == entry["digest"])
        body = bytes(row["body"])
        if entry["position"] == start:
            body = _by_somebody_else(body)
        for old, new in renamed.items():
            body = body.replace(old.encode(), new.encode())
        if body == bytes(row["body"]):
            continue
        renamed[row[digest]] = _digest(body)
        values = {"body": body, digest: renamed[row[digest]]}
        for column in ("parent", "report"):
            if column in row:
                values[column] = renamed.get(row[column], row[column])
        found.update(table, row, values)
        key = renamed.get(entry["key"], entry["key"])
        found.update("log_entries", entry, {"key": key, "digest": renamed[row[digest]]})
    for use in found.rows("revision_edits"):
        moved = {name: renamed.get(use[name], use[name]) for name in ("revision", "report")}
        found.update("revision_edits", use, moved)
    _point_at_last_revisions(found)
    return f"wrote history anew from entry {start} on"


def _by_somebody_else(body: bytes) -> bytes:
    fields = json.loads(body) | {"actor": "somebody else"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def _point_at_last_revisions(found: Hand) -> None:
    """Let every branch point at the last revision that is there; drop those without any."""
    made = found.rows("revisions")
    for branch in found.rows("branches"):
        own = [r for r in made if (r["model"], r["branch"]) == (branch["model"], branch["name"])]
        if not own:
            found.delete("branches", branch)
            continue
        last = max(own, key=lambda row: row["sequence"])
        found.update("branches", branch, {"head": last["id"], "sequence": last["sequence"]})


CONSISTENT: Final = (cut_the_tail, rewrite_history)

Backup = Mapping[str, list[dict[str, Any]]]
"""Every row of every table."""


def back_up(url: str) -> Backup:
    """Every row of the ledger at ``url`` as it is now."""
    connection = raw_connection(url)
    try:
        found = Hand(connection=connection)
        return {table.name: found.rows(table.name) for table in metadata.sorted_tables}
    finally:
        connection.close()


def restore(found: Hand, backup: Backup) -> str:
    """Put a backup in the place of what is there."""
    for table in reversed(metadata.sorted_tables):
        found.run(f"DELETE FROM {table.name}")  # noqa: S608 - our own names
    for name, rows in backup.items():
        for row in rows:
            found.insert(name, row)
    return "restored a backup"
