"""The command line, run in this process against a server with the scripted engine."""

import json
import shutil
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from errata.cli.__main__ import app
from tests.support.loopback import serving


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        """The one JSON document on stdout."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Runs ``errata`` against one address."""

    address: str

    def __call__(self, *arguments, env=None) -> Ran:
        result = CliRunner(env={"ERRATA_ADDRESS": self.address, **(env or {})}).invoke(
            app, [str(argument) for argument in arguments], prog_name="errata"
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        return Ran(result.exit_code, result.stdout, result.stderr)

    def json(self, *arguments) -> Ran:
        """The same, for a machine."""
        return self(*arguments, "--output", "json")

    def proposed(self, subject="Space Needle", target="Paris"):
        """The id of a stored edit."""
        prompt = "{} is in the city of"
        ran = self.json("propose", "--subject", subject, "--prompt", prompt, "--target", target)
        return ran.document["edit"]["id"]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Tables are as wide here as in any process: a worker has no terminal to ask."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def server(tmp_path, migrated_sqlite):
    shutil.copy(migrated_sqlite, tmp_path / "ledger.db")
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def cli(server):
    return CommandLine(server.address)


@pytest.fixture
def nobody():
    """A command line whose server is not there."""
    return CommandLine("127.0.0.1:1")
