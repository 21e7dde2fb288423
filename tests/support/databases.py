"""Real databases for tests: a SQLite file, or a database of a real PostgreSQL server.

Fixtures to import in a conftest: `postgresql_server`, `migrated_sqlite`,
`migrated_postgresql`, `make_empty`, `make_migrated`, `empty_url` and `ledger_url`; the last two
run a test once on each kind. One server serves the session, and every test has a database of
its own.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from benchmarks.postgresql import PostgresqlServer
from errata_server.ledger.database import Database, ledger_engine
from errata_server.ledger.migrate import migrate
from errata_server.ledger.tables import metadata

KINDS = ("sqlite", "postgresql")
TEMPLATE = "errata_template"
SQLITE_ONLY = pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
POSTGRESQL_ONLY = pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
EMPTY_POSTGRESQL_ONLY = pytest.mark.parametrize("empty_url", ["postgresql"], indirect=True)
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
        yield f"sqlite:///{tmp_path / 'empty.db'}"
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


@pytest.fixture
def make_empty(request, tmp_path) -> Iterator[Callable[[str], str]]:
    """Makes databases without a schema, of whichever kind is asked for."""
    yield from _made(request, tmp_path, migrated=False)


@pytest.fixture
def make_migrated(request, tmp_path) -> Iterator[Callable[[str], str]]:
    """Makes migrated databases without rows, of whichever kind is asked for."""
    yield from _made(request, tmp_path, migrated=True)


def _made(request, tmp_path: Path, *, migrated: bool) -> Iterator[Callable[[str], str]]:
    made: list[str] = []

    def make(kind: str) -> str:
        number = next(_numbers)
        if kind == "sqlite":
            path = tmp_path / f"made_{number}.db"
            if migrated:
                shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
            return f"sqlite:///{path}"
        server = request.getfixturevalue("postgresql_server")
        template = request.getfixturevalue("migrated_postgresql") if migrated else "template1"
        made.append(f"test_{number}")
        return str(server.create(made[-1], template=template))

    yield make
    for name in made:
        request.getfixturevalue("postgresql_server").drop(name)


def _postgresql_database(server: PostgresqlServer, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    yield server.create(name, template=template)
    server.drop(name)


def copy_rows(source: str, target: str) -> None:
    """Every row of the ledger at ``source`` into the migrated, empty one at ``target``."""
    engines = [ledger_engine(url) for url in (source, target)]
    with engines[0].connect() as reading, engines[1].begin() as writing:
        for table in metadata.sorted_tables:
            rows = [dict(row) for row in reading.execute(select(table)).mappings()]
            if rows:
                writing.execute(insert(table), rows)
    for engine in engines:
        engine.dispose()


def row_count(url: str, table: str) -> int:
    """Rows of ``table`` in the database at ``url``."""
    database = Database(url)
    try:
        with database.reading() as connection:
            return int(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)
    finally:
        database.close()


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Another writer holds the database inside the block."""
    database = Database(url)
    with database.writing() as connection:
        connection.execute(text("SELECT 1"))
        yield
    database.close()
