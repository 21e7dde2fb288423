"""A server with the scripted engine, and clients of it."""

import shutil

import pytest

import errata
from tests.support.loopback import serving


@pytest.fixture
def folder(tmp_path, migrated_sqlite):
    """Where a server keeps its ledger: migrated, without rows."""
    shutil.copy(migrated_sqlite, tmp_path / "ledger.db")
    return tmp_path


@pytest.fixture
def server(folder):
    with serving(folder) as running:
        yield running


@pytest.fixture
def client(server):
    with errata.Client(server.address, actor="ana") as connected:
        yield connected


@pytest.fixture
def moved():
    """A fact the scripted model does not hold: the Space Needle is in Seattle."""
    return errata.Fact(template="{} is in the city of", target="Paris")
