"""History is insert-only and gapless by the database's own rules, whoever is connected."""

import sqlite3

import psycopg
import pytest

from tests.support.databases import POSTGRESQL_ONLY, SQLITE_ONLY
from tests.support.histories import genesis
from tests.support.tampering import raw_connection

REFUSALS = (sqlite3.IntegrityError, psycopg.errors.RestrictViolation)
INSERT_ONLY = {
    "models": "body_digest",
    "profiles": "id",
    "artifacts": "digest",
    "edits": "subject",
    "reports": "edit",
    "approvals": "request_id",
    "revisions": "kind",
    "revision_edits": "edit",
    "suites": "name",
    "log_entries": "key",
}


@pytest.fixture
def sql(chronicler, ledger_url):
    """Runs raw SQL on a ledger with a row in every table."""
    stored = chronicler.propose()
    chronicler.approve(stored, "a-1")
    chronicler.apply(stored)
    chronicler.add_suite("capitals", "the Space Needle stands in")
    connection = raw_connection(ledger_url)
    yield connection.execute
    connection.close()


def is_postgresql(url: str) -> bool:
    return url.startswith("postgresql")


def snapshot(sql):
    return [sql(f"SELECT * FROM {table}").fetchall() for table in (*INSERT_ONLY, "branches")]


@pytest.mark.parametrize("table", INSERT_ONLY)
def test_rows_are_never_changed_or_deleted(sql, ledger_url, table):
    before = snapshot(sql)
    statements = [
        f"UPDATE {table} SET {INSERT_ONLY[table]} = {INSERT_ONLY[table]}",
        f"DELETE FROM {table}",
    ]
    if is_postgresql(ledger_url):
        statements.append(f"TRUNCATE {table} CASCADE")

    for statement in statements:
        with pytest.raises(REFUSALS, match="insert-only"):
            sql(statement)

    assert snapshot(sql) == before


@pytest.mark.parametrize("table", [*INSERT_ONLY, "branches"])
def test_rows_are_never_replaced_by_an_insert(sql, ledger_url, table):
    before = snapshot(sql)
    if is_postgresql(ledger_url):
        column = INSERT_ONLY.get(table, "name")
        statements = [
            f"INSERT INTO {table} SELECT * FROM {table} LIMIT 1 "
            f"ON CONFLICT ON CONSTRAINT pk_{table} DO UPDATE SET {column} = 'changed'"
        ]
    else:
        assert sql("PRAGMA recursive_triggers").fetchone() == (0,)
        statements = [
            f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}",
            f"INSERT OR REPLACE INTO {table} SELECT * FROM {table} ORDER BY rowid DESC",
            f"REPLACE INTO {table} SELECT * FROM {table}",
        ]

    for statement in statements:
        with pytest.raises((sqlite3.IntegrityError, psycopg.errors.IntegrityError)):
            sql(statement)

    assert snapshot(sql) == before


@SQLITE_ONLY
@pytest.mark.parametrize("table", [*INSERT_ONLY, "branches"])
def test_rows_are_never_replaced_by_their_rowid(sql, table):
    before = snapshot(sql)
    columns = [name for _, name, *_ in sql(f"PRAGMA table_info({table})").fetchall()]
    fresh = {name: f"hex(randomblob(32)) AS {name}" for name in ("id", "digest", "name")}
    numbers = {name: f"{name} + 7 AS {name}" for name in ("position", "version", "sequence")}
    new = ", ".join((fresh | numbers).get(name, name) for name in columns)
    assert sql("PRAGMA recursive_triggers").fetchone() == (0,)

    for clause in ("INSERT OR REPLACE", "INSERT OR IGNORE", "INSERT"):
        with pytest.raises(sqlite3.IntegrityError, match="has that row already|must"):
            sql(
                f"{clause} INTO {table} (rowid, {', '.join(columns)}) "
                f"SELECT rowid, {new} FROM {table} LIMIT 1"
            )

    assert snapshot(sql) == before


def revision(sequence: int, parent: str, *, branch: str = "main") -> str:
    return (
        "INSERT INTO revisions (id, model, branch, sequence, parent, kind, request_id, body) "
        f"SELECT '{'0' * 64}', model, '{branch}', {sequence}, '{parent}', 'policy', 'x', body "
        "FROM revisions WHERE sequence = 0"
    )


def test_a_revision_must_have_the_next_sequence_and_the_last_parent(sql):
    (head,) = sql("SELECT head FROM branches").fetchone()

    for statement, problem in (
        (revision(3, head), "follow the branch's last"),
        (revision(1, "other"), "follow the branch's last|row already|the one before it"),
        (revision(7, "", branch="new"), "follow the branch's last"),
        (revision(2, genesis().id), "the one before it|row already"),
        (revision(2, "f" * 64), "the one before it"),
    ):
        with pytest.raises(REFUSALS, match=problem):
            sql(statement)

    sql(revision(2, head))


def test_a_head_moves_only_to_the_next_revision(sql):
    for statement in (
        f"UPDATE branches SET head = '{genesis().id}', sequence = 0",
        f"UPDATE branches SET head = '{genesis().id}', sequence = 2",
        "UPDATE branches SET sequence = 2",
        "UPDATE branches SET name = 'other'",
    ):
        with pytest.raises(REFUSALS, match="only forward"):
            sql(statement)
    with pytest.raises(REFUSALS, match="insert-only"):
        sql("DELETE FROM branches")


def test_a_suite_s_version_must_be_the_next(sql):
    copy = (
        "INSERT INTO suites (model, position, name, version, artifact, request_id, digest, body) "
        "SELECT model, {position}, '{name}', {version}, artifact, 'x', digest, body FROM suites"
    )

    for name, version in (("capitals", 3), ("capitals", 1), ("awards", 2)):
        with pytest.raises((*REFUSALS, psycopg.errors.IntegrityError)):
            sql(copy.format(position=1, name=name, version=version))

    sql(copy.format(position=1, name="capitals", version=2))


def test_a_log_entry_s_position_must_be_the_next(sql):
    (last,) = sql("SELECT MAX(position) FROM log_entries").fetchone()
    entry = (
        "INSERT INTO log_entries (model, position, kind, key, digest) "
        f"SELECT model, {{}}, 'edit', 'another', digest FROM log_entries WHERE position = {last}"
    )

    for position in (0, last, last + 2):
        with pytest.raises((*REFUSALS, psycopg.errors.IntegrityError)):
            sql(entry.format(position))

    sql(entry.format(last + 1))


@POSTGRESQL_ONLY
def test_triggers_fire_even_for_a_postgresql_replica(sql, ledger_url):
    sql("SET session_replication_role = replica")

    for statement in ("DELETE FROM revisions", "UPDATE edits SET subject = 'x'"):
        with pytest.raises(REFUSALS, match="insert-only"):
            sql(statement)
    with pytest.raises(REFUSALS, match="only forward"):
        sql("UPDATE branches SET sequence = 9")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO artifacts (digest, payload) VALUES ('short', 'x')",
        "INSERT INTO edits (id, model, position, digest, subject, patch, profile, body) "
        "VALUES ('e', 'nobody', -1, 'short', 's', 'p', 'p', 'b')",
        "INSERT INTO artifacts (digest, payload) VALUES (NULL, NULL)",
    ],
)
def test_malformed_rows_are_refused(sql, statement):
    with pytest.raises((sqlite3.IntegrityError, psycopg.errors.IntegrityError)):
        sql(statement)
