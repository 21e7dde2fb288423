import pytest

from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from tests.support.databases import (  # noqa: F401 - fixtures
    empty_url,
    ledger_url,
    make_empty,
    make_migrated,
    migrated_postgresql,
    migrated_sqlite,
    postgresql_server,
)
from tests.support.histories import Chronicler


@pytest.fixture
def database(ledger_url):  # noqa: F811
    opened = Database(ledger_url)
    yield opened
    opened.close()


@pytest.fixture
def ledger(database):
    return Ledger(database)


@pytest.fixture
def chronicler(ledger):
    return Chronicler(ledger)
