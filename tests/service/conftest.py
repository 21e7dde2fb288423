import pytest

from errata_server.ledger.migrate import migrate
from tests.support.services import open_services


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    path = tmp_path_factory.mktemp("ledger") / "empty.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def url(tmp_path, migrated):
    path = tmp_path / "ledger.db"
    path.write_bytes(migrated.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture
def services(url):
    with open_services(url) as opened:
        yield opened
