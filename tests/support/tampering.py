"""What somebody with the database's own tools can do to a ledger behind errata's back."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.reliability.hand import disarm, raw_connection, tampering
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from tests.support.histories import Chronicler

__all__ = ["disarm", "disarmed_ledger", "raw_connection", "tampering"]


@contextmanager
def disarmed_ledger(
    request: pytest.FixtureRequest, folder: Path, write: Callable[[Chronicler], object]
) -> Iterator[Database]:
    """A ledger with the history ``write`` makes, whose triggers somebody has dropped.

    Args:
        request: Of a fixture with the parameters ``sqlite`` and ``postgresql``.
        folder: Empty, for a SQLite file; its name is PostgreSQL's database.
        write: Makes the history.
    """
    if request.param == "sqlite":
        path = folder / "ledger.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        url = f"sqlite:///{path}"
    else:
        template = request.getfixturevalue("migrated_postgresql")
        url = request.getfixturevalue("postgresql_server").create(folder.name, template=template)
    database = Database(url)
    write(Chronicler(Ledger(database)))
    raw = raw_connection(url)
    disarm(raw)
    raw.close()
    yield database
    database.close()
