"""Migrations: up, down, in step with the tables, and safe to run twice at once."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import inspect, text

from benchmarks.reliability.hand import Hand, back_up
from errata_server.domain.errors import InvalidInputError, SchemaMismatchError
from errata_server.domain.ids import BranchName
from errata_server.ledger import schema
from errata_server.ledger.database import Database, ledger_engine
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.migrate import migrate
from errata_server.ledger.tables import metadata
from tests.support import MODEL
from tests.support.databases import SQLITE_ONLY, row_count
from tests.support.histories import Chronicler
from tests.support.tampering import raw_connection

MIGRATE = "import sys; from errata_server.ledger.migrate import migrate; migrate(sys.argv[1])"


@pytest.fixture
def alembic(empty_url):
    """Runs an Alembic command on an empty database, in a transaction of its own."""
    engine = ledger_engine(empty_url)

    def run(what, *arguments):
        config = schema.alembic_config()
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            what(config, *arguments)
            return set(inspect(connection).get_table_names()) - {"alembic_version"}

    yield run
    engine.dispose()


@pytest.fixture
def empty_database(empty_url):
    database = Database(empty_url)
    yield database
    database.close()


def test_migrating_creates_the_schema_and_then_has_nothing_to_do(empty_url, empty_database):
    assert migrate(empty_url) is True
    assert migrate(empty_url) is False

    empty_database.check_schema()
    assert Chronicler(Ledger(empty_database)).head()


def test_migrations_form_one_line():
    scripts = ScriptDirectory.from_config(schema.alembic_config())

    assert len(scripts.get_heads()) == 1
    assert len(scripts.get_bases()) == 1


def test_each_migration_goes_up_and_down_and_up_again(alembic):
    scripts = ScriptDirectory.from_config(schema.alembic_config())
    steps = [script.revision for script in scripts.walk_revisions()][::-1]

    for step in steps:
        assert alembic(command.upgrade, step)
    left = [alembic(command.downgrade, "-1") for _ in steps]
    assert left[-1] == set()

    assert alembic(command.upgrade, "head") == set(metadata.tables)


FIRST_TABLES = (
    "artifacts",
    "models",
    "profiles",
    "edits",
    "reports",
    "approvals",
    "revisions",
    "revision_edits",
    "branches",
)
"""The first schema's, each after those it refers to."""


@pytest.fixture
def history_of_the_first_schema(alembic, empty_url, migrated_sqlite, tmp_path):
    """Three revisions in a database of the first schema, as a server of then left them."""
    path = tmp_path / "elsewhere.db"
    shutil.copy(migrated_sqlite, path)
    elsewhere = Database(f"sqlite:///{path}")
    chronicler = Chronicler(Ledger(elsewhere))
    stored = chronicler.propose()
    chronicler.approve(stored, "a-1")
    chronicler.apply(stored)
    chronicler.apply(chronicler.propose("Louvre"))
    elsewhere.close()
    alembic(command.upgrade, "0001")
    backup = back_up(f"sqlite:///{path}")
    connection = raw_connection(empty_url)
    hand = Hand(connection=connection)
    for table in FIRST_TABLES:
        for row in sorted(backup[table], key=lambda row: row.get("sequence", 0)):
            hand.insert(table, row)
    connection.close()


def test_a_history_of_the_first_schema_is_upgraded_as_it_is(
    history_of_the_first_schema, empty_url, empty_database
):
    assert migrate(empty_url) is True

    empty_database.check_schema()
    ledger = Ledger(empty_database)
    assert ledger.head(MODEL).sequence == 2
    assert ledger.audit(MODEL).findings == ()
    stored = Chronicler(ledger).add_suite("capitals", "the Space Needle stands in")
    assert ledger.suites(MODEL) == [stored]
    assert ledger.audit(MODEL).clean


def test_rows_that_were_there_before_the_log_get_their_entries_in_a_fixed_order(
    history_of_the_first_schema, empty_url, empty_database
):
    migrate(empty_url)

    entries = Ledger(empty_database).log.verified(MODEL, 0)
    assert [entry.position for entry in entries] == list(range(10))
    assert [entry.kind for entry in entries] == [
        "model", "profile", "edit", "edit", "report", "report", "approval",
        "revision", "revision", "revision",
    ]  # fmt: skip


def test_a_downgrade_does_not_drop_a_log(ledger_url, chronicler):
    engine = ledger_engine(ledger_url)
    config = schema.alembic_config()

    with engine.connect() as connection:
        config.attributes["connection"] = connection
        with pytest.raises(RuntimeError, match="a log that has begun"):
            command.downgrade(config, "0002")
    engine.dispose()

    # SQLite has gone back as far as that by then, and lacks the guards of later schemas.
    findings = chronicler.ledger.audit(MODEL).findings
    assert all(finding.row.startswith("triggers[") for finding in findings)


def test_a_downgrade_does_not_drop_suites(alembic, empty_url, empty_database):
    alembic(command.upgrade, "0002")
    connection = raw_connection(empty_url)
    hand = Hand(connection=connection)
    digest = "0" * 64
    hand.insert("models", {"id": "m", "digest": digest, "body_digest": digest, "body": b"{}"})
    hand.insert("artifacts", {"digest": digest, "payload": b"{}"})
    suite = {"model": "m", "position": 0, "name": "capitals", "version": 1, "artifact": digest}
    hand.insert("suites", suite | {"request_id": "r", "digest": digest, "body": b"{}"})
    connection.close()

    with pytest.raises(RuntimeError, match="suites that were stored"):
        alembic(command.downgrade, "0001")


def test_a_downgrade_does_not_hide_branches(ledger_url, chronicler):
    made = chronicler.begin("canary")
    engine = ledger_engine(ledger_url)
    config = schema.alembic_config()

    with engine.connect() as connection:
        config.attributes["connection"] = connection
        with pytest.raises(RuntimeError, match="history with branches|a log that has begun"):
            command.downgrade(config, "0002")
    engine.dispose()

    assert chronicler.ledger.head(MODEL, BranchName("canary")) == made


def test_a_downgrade_leaves_no_trace(alembic, empty_url):
    alembic(command.upgrade, "head")
    alembic(command.downgrade, "base")

    connection = raw_connection(empty_url)
    leftovers = (
        "SELECT name FROM sqlite_master WHERE name NOT LIKE '%alembic_version%'"
        if empty_url.startswith("sqlite")
        else "SELECT proname FROM pg_proc WHERE proname LIKE 'errata%'"
    )
    assert connection.execute(leftovers).fetchall() == []
    connection.close()


def test_alembic_check_finds_nothing_to_change(alembic):
    alembic(command.upgrade, "head")

    alembic(command.check)


def test_alembic_check_would_see_what_is_missing(alembic, empty_url):
    alembic(command.upgrade, "head")
    connection = raw_connection(empty_url)
    connection.execute("DROP INDEX ix_revision_edits_edit")
    connection.close()

    with pytest.raises(CommandError, match="ix_revision_edits_edit"):
        alembic(command.check)


def test_every_constraint_has_a_name(ledger_url):
    engine = ledger_engine(ledger_url)
    found = inspect(engine)

    for table in found.get_table_names():
        if table == "alembic_version":
            continue
        constraints = [
            found.get_pk_constraint(table),
            *found.get_foreign_keys(table),
            *found.get_unique_constraints(table),
            *found.get_check_constraints(table),
        ]
        assert all(constraint["name"] for constraint in constraints), table
    engine.dispose()


@SQLITE_ONLY
def test_sqlite_tables_are_strict(ledger_url):
    engine = ledger_engine(ledger_url)
    with engine.connect() as connection:
        rows = connection.execute(text("PRAGMA table_list")).all()
    engine.dispose()

    loose = {row.name for row in rows if not row.strict and not row.name.startswith("sqlite_")}
    assert loose == {"alembic_version"}


def test_two_processes_may_migrate_one_database_at_once(empty_url, empty_database):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, empty_url],
            env={"PYTHONPATH": str(Path(schema.__file__).parents[2])},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]

    outcomes = [(process.communicate()[1], process.returncode) for process in processes]

    assert [code for _, code in outcomes] == [0, 0, 0], outcomes
    empty_database.check_schema()


def test_a_server_refuses_a_database_without_a_schema(empty_database):
    with pytest.raises(SchemaMismatchError, match="`errata-server migrate`"):
        empty_database.check_schema()
    with pytest.raises(SchemaMismatchError, match="`errata-server migrate`"):
        Ledger(empty_database).put_artifact(b"early")


def test_a_server_refuses_a_schema_it_does_not_know(ledger_url, database):
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(SchemaMismatchError, match="upgrade this server") as refused:
        database.check_schema()
    with pytest.raises(SchemaMismatchError, match="upgrade this server"):
        migrate(ledger_url)

    assert refused.value.metadata["schema"] == "newer"


def test_a_server_refuses_an_older_schema(database, monkeypatch):
    monkeypatch.setattr(
        "alembic.script.ScriptDirectory.get_heads", lambda self: ["0002_not_applied"]
    )

    with pytest.raises(SchemaMismatchError, match=r"older schema.*`errata-server migrate`"):
        database.check_schema()


def test_a_ledger_with_history_is_not_dropped_by_a_downgrade(
    history_of_the_first_schema, alembic, empty_url
):
    with pytest.raises(RuntimeError, match="ledger with history"):
        alembic(command.downgrade, "base")

    assert row_count(empty_url, "revisions") == 3


def test_the_installed_package_brings_its_migrations(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "errata_server"
    (package / "migrations").mkdir(parents=True)
    (package / "migrations" / "env.py").touch()
    monkeypatch.setattr("errata_server.__file__", str(package / "__init__.py"))

    assert schema.migrations_folder() == package / "migrations"

    (package / "migrations" / "env.py").unlink()
    with pytest.raises(SchemaMismatchError, match="reinstall"):
        schema.migrations_folder()


@pytest.mark.parametrize(
    "url", ["mysql://me:secret@host/db", "not a url", "sqlite://", "sqlite:///:memory:", ""]
)
def test_a_url_of_no_ledger_is_refused_without_being_repeated(url):
    with pytest.raises(InvalidInputError) as refused:
        migrate(url)

    assert "secret" not in str(refused.value)
