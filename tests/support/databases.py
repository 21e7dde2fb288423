"""Real databases for tests: a SQLite file, or a database of a real PostgreSQL server.

Fixtures to import in a conftest: `postgresql_server`, `migrated_sqlite`,
`migrated_postgresql`, `empty_url` and `ledger_url`; the last two run a test once on each
kind. One server serves the session, and every test has a database of its own.
"""

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import text

from benchmarks.postgresql import PostgresqlServer
from errata_server.ledger.database import Database
from errata_server.ledger.migrate import migrate

KINDS = ("sqlite", "postgresql")
TEMPLATE = "errata_template"
SQLITE_ONLY = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
POSTGRESQL_ONLY = pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
_numbers = count()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """The session's PostgreSQL server."""
    server = PostgresqlServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory) -> Path:
    """A migrated, empty SQLite file to copy."""
    path: Path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql_server) -> str:
    """The name of a migrated, empty PostgreSQL database to copy."""
    migrate(postgresql_server.create(TEMPLATE))
    return TEMPLATE


@pytest.fixture(params=KINDS)
def empty_url(request, tmp_path) -> Iterator[str]:
    """A database without a schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
        return
    yield from _postgresql_database(request.getfixturevalue("postgresql_server"), "template1")


@pytest.fixture(params=KINDS)
def ledger_url(request, tmp_path) -> Iterator[str]:
    """A migrated database without rows."""
    if request.param == "sqlite":
        path = tmp_path / "ledger.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    server = request.getfixturevalue("postgresql_server")
    yield from _postgresql_database(server, request.getfixturevalue("migrated_postgresql"))


def _postgresql_database(server: PostgresqlServer, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    yield server.create(name, template=template)
    server.drop(name)


def row_count(url: str, table: str) -> int:
    """Rows of ``table`` in the database at ``url``."""
    database = Database(url)
    try:
        with database.reading() as connection:
            return int(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)
    finally:
        database.close()
