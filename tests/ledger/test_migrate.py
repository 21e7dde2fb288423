"""Migrations: up, down, in step with the tables, and safe to run twice at once."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import inspect, text

from errata_server.domain.errors import InvalidInputError, SchemaMismatchError
from errata_server.domain.ids import BranchName
from errata_server.ledger import schema
from errata_server.ledger.database import Database, ledger_engine
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.migrate import migrate
from errata_server.ledger.tables import metadata
from tests.support import MODEL
from tests.support.databases import SQLITE_ONLY
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


def test_a_history_of_the_first_schema_is_upgraded_as_it_is(alembic, empty_url, empty_database):
    alembic(command.upgrade, "0001")
    chronicler = Chronicler(Ledger(empty_database))
    applied = chronicler.apply(chronicler.propose())

    assert migrate(empty_url) is True

    empty_database.check_schema()
    assert chronicler.head() == applied.id
    stored = chronicler.add_suite("capitals", "the Space Needle stands in")
    assert chronicler.ledger.suites(MODEL) == [stored]
    assert chronicler.ledger.audit(MODEL).clean


def test_a_downgrade_does_not_drop_suites(ledger_url, chronicler):
    stored = chronicler.add_suite("capitals", "the Space Needle stands in")
    engine = ledger_engine(ledger_url)
    config = schema.alembic_config()

    with engine.connect() as connection:
        config.attributes["connection"] = connection
        with pytest.raises(RuntimeError, match="suites that were stored"):
            command.downgrade(config, "0001")
    engine.dispose()

    assert chronicler.ledger.suites(MODEL) == [stored]


def test_a_downgrade_does_not_hide_branches(ledger_url, chronicler):
    made = chronicler.begin("canary")
    engine = ledger_engine(ledger_url)
    config = schema.alembic_config()

    with engine.connect() as connection:
        config.attributes["connection"] = connection
        with pytest.raises(RuntimeError, match="history with branches"):
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


def test_a_ledger_with_history_is_not_dropped_by_a_downgrade(chronicler, ledger_url):
    engine = ledger_engine(ledger_url)
    config = schema.alembic_config()

    with engine.connect() as connection:
        config.attributes["connection"] = connection
        with pytest.raises(RuntimeError, match="ledger with history"):
            command.downgrade(config, "base")
    engine.dispose()

    assert chronicler.head()


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
