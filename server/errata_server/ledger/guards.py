"""The triggers that keep history as it was written, by name, and whether they are all there.

Invariant: what is listed here is what the migrations install; a test compares the two. A trigger
of the right name may have been emptied by whoever owns the database: kept ledger checkpoints
show what was done behind it.
"""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, text

from errata_server.ledger.findings import Findings

INSERT_ONLY: Final = (
    "models",
    "profiles",
    "artifacts",
    "edits",
    "reports",
    "approvals",
    "revisions",
    "revision_edits",
    "suites",
    "log_entries",
)
"""Tables whose rows never change."""

_SQLITE_MORE: Final = (
    "branches_insert_guard",
    "branches_delete_guard",
    "branches_update_guard",
    "revisions_insert_sequence",
    "revisions_insert_parent",
    "suites_insert_version",
    "log_entries_insert_position",
    "revisions_insert_start",
    "revisions_insert_genesis",
    "leases_insert_guard",
    "leases_delete_guard",
    "leases_update_guard",
)
_SQLITE_ROWIDS: Final = (*INSERT_ONLY, "branches", "leases")
"""Tables whose rowids are guarded too."""

_POSTGRESQL_MORE: Final = (
    "branches_rows_guard",
    "branches_truncate_guard",
    "branches_update_guard",
    "revisions_insert_guard",
    "suites_insert_guard",
    "log_entries_insert_guard",
    "revisions_start_guard",
    "leases_rows_guard",
    "leases_truncate_guard",
)

_SQLITE_QUERY: Final = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
_POSTGRESQL_QUERY: Final = (
    "SELECT t.tgname AS name FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
    "WHERE NOT t.tgisinternal AND t.tgenabled = 'A' AND pg_table_is_visible(c.oid)"
)
"""Those that fire always: one that does not fire on a replica can be walked past."""


def expected(dialect: str) -> Iterator[str]:
    """The names of all triggers a database of this kind must have."""
    postgresql = dialect == "postgresql"
    for table in INSERT_ONLY:
        for kind in ("rows", "truncate") if postgresql else ("insert", "delete", "update"):
            yield f"{table}_{kind}_guard"
    yield from _POSTGRESQL_MORE if postgresql else _SQLITE_MORE
    if not postgresql:
        yield from (f"{table}_insert_rowid" for table in _SQLITE_ROWIDS)


def armed(connection: Connection) -> set[str]:
    """The names of the triggers that are there and fire."""
    postgresql = connection.dialect.name == "postgresql"
    query = _POSTGRESQL_QUERY if postgresql else _SQLITE_QUERY
    return set(connection.scalars(text(query)))


def check(connection: Connection, findings: Findings) -> None:
    """Note each trigger that is missing or does not fire."""
    present = armed(connection)
    for name in expected(connection.dialect.name):
        if name not in present:
            findings.add(
                f"triggers[{name}]", "missing or disabled, so that history can be rewritten"
            )
