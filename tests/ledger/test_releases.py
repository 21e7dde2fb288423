"""Ledgers of earlier releases: brought to the newest schema with every row as it was."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from errata_server.domain.ids import MAIN, EditId, ModelId
from errata_server.ledger.database import Database
from errata_server.ledger.exports import export_ledger
from errata_server.ledger.imports import import_ledger
from errata_server.ledger.leases import Claim, Leases
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.migrate import migrate
from errata_server.ledger.schema import is_known, stored_schema
from tests.support import NOON
from tests.support.databases import EMPTY_POSTGRESQL_ONLY
from tests.support.releases import NAMES, Release, migrate_to, read_release

ROOT = Path(__file__).parents[2]
NEWEST = "9999"
CUT = """
import os, signal, sys
from sqlalchemy import Engine, event
from errata_server.ledger import migrate as migrations

statements = int(sys.argv[2])

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

@event.listens_for(Engine, "after_cursor_execute")
def count(connection, cursor, statement, parameters, context, executemany):
    global statements
    if statement.lstrip().upper().startswith(("CREATE", "ALTER", "DROP")):
        statements -= 1
        if statements == 0:
            kill()

@event.listens_for(Engine, "commit")
def before_commit(connection):
    kill()

migrations.migrate(sys.argv[1])
"""


@pytest.fixture(params=NAMES)
def release(request) -> Release:
    return read_release(request.param)


def schema_of(url: str) -> str:
    database = Database(url)
    try:
        with database.reading() as connection:
            return stored_schema(connection)
    finally:
        database.close()


def state_of(url: str, release: Release):
    """What a release said of its ledger, asked of the ledger as it is now."""
    database = Database(url)
    ledger, model = Ledger(database), ModelId(release.said["model"])
    revisions = ledger.revisions(model, MAIN, limit=100)
    applied = [ledger.applied(model, revision.id) for revision in revisions]
    edits = [ledger.edit(EditId(edit)) for edit in release.said["edits"]]
    try:
        assert ledger.audit(model).findings == ()
        assert ledger.head(model, MAIN) == revisions[-1]
        return {
            "revisions": [revision.id for revision in revisions],
            "weights": [revision.weights_digest for revision in revisions],
            "active_sets": [
                made.digest(model=revision.model_digest, composition=revision.composition)
                for made, revision in zip(applied, revisions, strict=True)
            ],
            "applied": [[edit.edit for edit in made.applied] for made in applied],
            "active": [[edit.edit for edit in made.active()] for made in applied],
            "edits": {edit.id: edit.digest for edit in edits},
            "latest_reports": {edit.id: ledger.latest_report(edit.id).id for edit in edits},
            "approvals": {edit.id: len(ledger.approvals(edit.id)) for edit in edits},
            "operations": {found.id: found.state for found in ledger.operations(model, 100)},
        }
    finally:
        database.close()


def said_by(release: Release):
    return {
        name: value
        for name, value in release.said.items()
        if name not in {"schema", "version", "model"}
    }


def test_every_released_schema_is_here():
    assert {"0001", "0002"} <= set(NAMES)
    assert all(is_known(name) for name in NAMES)


def test_what_is_kept_of_a_release_holds_a_row_of_every_table_it_had(release):
    assert [table for table, rows in release.rows.items() if not rows] == []


def test_a_ledger_of_a_release_is_migrated_with_every_row_as_it_was(empty_url, release):
    release.load(empty_url)

    assert migrate(empty_url) is True

    assert release.found(empty_url) == release.rows
    assert state_of(empty_url, release) == said_by(release)


def test_an_export_of_a_release_is_imported_and_migrated(empty_url, release, tmp_path):
    path = release.archive(tmp_path / "release.jsonl.gz")

    contents = import_ledger(empty_url, path, lambda step: None)

    assert contents.schema == schema_of(empty_url) != release.schema
    assert contents.heads == {f"{release.said['model']}/main": release.said["revisions"][-1]}
    assert release.found(empty_url) == release.rows
    assert state_of(empty_url, release) == said_by(release)


def test_a_migrated_and_an_imported_ledger_are_one(make_empty, release, tmp_path):
    migrated, imported = make_empty("sqlite"), make_empty("postgresql")
    release.load(migrated)
    migrate(migrated)
    import_ledger(imported, release.archive(tmp_path / "release.jsonl.gz"), lambda step: None)

    exported = []
    for number, url in enumerate((migrated, imported)):
        database, path = Database(url), tmp_path / f"{number}.jsonl.gz"
        export_ledger(database, path, replace=False, progress=lambda step: None)
        database.close()
        exported.append(path.read_bytes())

    assert exported[0] == exported[1]


def test_an_upgraded_ledger_is_written_to_like_any_other(empty_url, release):
    release.load(empty_url)
    migrate(empty_url)
    database = Database(empty_url)
    ledger, model = Ledger(database), ModelId(release.said["model"])

    claim = Claim(model=model, holder="next", address="next:1", seconds=1)
    assert Leases(database).take(claim, at=NOON).interrupted == 1
    assert ledger.put_artifact(b"new")
    assert ledger.audit(model).clean
    database.close()


def test_a_downgrade_gives_the_release_its_ledger_back_or_refuses(empty_url, release):
    release.load(empty_url)
    migrate(empty_url)
    newest = schema_of(empty_url)

    try:
        migrate_to(empty_url, release.schema, down=True)
    except RuntimeError:
        assert schema_of(empty_url) == newest
    else:
        assert schema_of(empty_url) == release.schema

    assert release.found(empty_url) == release.rows


@pytest.mark.parametrize("statements", [1, 4, 10**6], ids=["first", "fourth", "commit"])
def test_a_migration_killed_half_way_leaves_the_old_schema(empty_url, statements):
    release = read_release("0001")
    release.load(empty_url)
    command = [sys.executable, "-c", CUT, empty_url, str(statements)]

    killed = subprocess.run(command, env=environment(), stderr=subprocess.PIPE, check=False)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert schema_of(empty_url) == release.schema
    assert release.found(empty_url) == release.rows
    assert migrate(empty_url) is True
    assert state_of(empty_url, release) == said_by(release)


def test_a_first_migration_killed_half_way_leaves_nothing(empty_url):
    command = [sys.executable, "-c", CUT, empty_url, "12"]

    killed = subprocess.run(command, env=environment(), stderr=subprocess.PIPE, check=False)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert schema_of(empty_url) == ""
    assert migrate(empty_url) is True


@EMPTY_POSTGRESQL_ONLY  # a SQLite ledger is migrated by the server that opens it
def test_a_server_process_refuses_an_older_schema_and_says_what_to_run(empty_url):
    read_release("0001").load(empty_url)

    code, said = served(empty_url)

    assert code == 1
    assert "has an older schema; run `errata-server migrate`" in said
    assert schema_of(empty_url) == "0001"


def test_a_server_process_refuses_a_newer_schema_and_says_what_to_do(ledger_url):
    database = Database(ledger_url)
    with database.writing() as connection:
        connection.execute(text(f"UPDATE alembic_version SET version_num = '{NEWEST}'"))
    database.close()

    code, said = served(ledger_url)

    assert code == 1
    assert "migrated by a newer errata-server; upgrade this server" in said
    assert schema_of(ledger_url) == NEWEST


def served(url: str) -> tuple[int, str]:
    """Exit code and words of a server that is to serve ``url``."""
    command = [sys.executable, "-m", "errata_server", "serve", "--listen", "127.0.0.1:0"]
    ended = subprocess.run(
        [*command, "--ledger", url],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    (said,) = ended.stderr.splitlines()
    assert said.startswith("errata-server: ")
    return ended.returncode, said


def environment() -> dict[str, str]:
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "server", ROOT / "client"))
    return {**os.environ, "PYTHONPATH": paths}


def test_a_release_s_file_says_which_schema_it_has(release):
    assert json.loads(release.text.splitlines()[0])["schema"] == release.schema
    assert release.said["schema"] == release.schema
