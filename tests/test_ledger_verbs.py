"""``errata-server ledger``: what is printed, where, and the exit codes."""

import gzip
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from errata_server import __main__ as main
from errata_server import terminal
from errata_server.domain.operations import Progress
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.migrate import migrate
from tests.support.histories import Chronicler
from tests.support.logs import kept_logging
from tests.support.tampering import tampering


def run(*arguments):
    return CliRunner().invoke(main.cli, ["ledger", *map(str, arguments)])


@pytest.fixture(autouse=True)
def logging_as_before():
    with kept_logging():
        yield


@pytest.fixture(autouse=True)
def no_bars_on_slow_machines(monkeypatch):
    monkeypatch.setattr(terminal, "PATIENCE", 600.0)


@pytest.fixture
def url(tmp_path):
    """A ledger with an applied edit."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url)
    database = Database(url)
    chronicler = Chronicler(Ledger(database))
    chronicler.apply(chronicler.propose())
    database.close()
    return url


def lines_of(file):
    return gzip.decompress(file.read_bytes()).splitlines()


def head_of(url):
    database = Database(url)
    head = Chronicler(Ledger(database)).head()
    database.close()
    return head


def test_a_ledger_is_exported_and_imported_in_words(url, tmp_path):
    file, target = tmp_path / "ledger.jsonl.gz", f"sqlite:///{tmp_path / 'target.db'}"

    exported = run("export", file, "--ledger", url)
    imported = run("import", file, "--ledger", target)

    assert (exported.exit_code, exported.stderr) == (0, "")
    assert exported.stdout.startswith(f"{file}: {file.stat().st_size} bytes\n")
    assert (imported.exit_code, imported.stderr) == (0, "")
    assert imported.stdout.startswith(f"{target}: imported and audited, nothing is wrong\n")
    for said in (exported.stdout, imported.stdout):
        assert "1 edits" in said
        assert f"scripted/main is at {head_of(url)}\n" in said
    assert head_of(target) == head_of(url)


def test_a_ledger_is_exported_and_imported_as_json(url, tmp_path):
    file, target = tmp_path / "ledger.jsonl.gz", f"sqlite:///{tmp_path / 'target.db'}"

    exported = json.loads(run("export", file, "--ledger", url, "--output", "json").stdout)
    imported = json.loads(run("import", file, "--ledger", target, "-o", "json").stdout)

    assert exported.pop("bytes") == file.stat().st_size
    assert exported.pop("replaced") is False
    assert exported.pop("file") == imported.pop("file") == str(file)
    assert imported.pop("ledger") == target
    assert exported == imported
    assert exported["heads"] == {"scripted/main": head_of(url)}
    assert exported["rows"]["edits"] == 1
    assert json.loads(lines_of(file)[-1]) == {"sha256": exported["digest"]}


def test_an_earlier_export_is_replaced_only_if_it_is_said_and_then_it_is_told(url, tmp_path):
    file = tmp_path / "ledger.jsonl.gz"
    run("export", file, "--ledger", url)

    again = run("export", file, "--ledger", url)
    forced = run("export", file, "--ledger", url, "--force")
    wrong = run("export", tmp_path / "ledger.db", "--ledger", url, "--force")

    assert (again.exit_code, again.stdout) == (1, "")
    assert "exists; name another file, or say --force" in again.stderr
    assert forced.exit_code == 0
    assert "in place of an earlier export" in forced.stdout
    assert wrong.exit_code == 1
    assert "is no ledger that was exported, so it is not replaced" in wrong.stderr
    assert head_of(url)


def test_a_second_import_is_refused_and_says_what_is_there(url, tmp_path):
    file, target = tmp_path / "ledger.jsonl.gz", f"sqlite:///{tmp_path / 'target.db'}"
    run("export", file, "--ledger", url)
    run("import", file, "--ledger", target)

    second = run("import", file, "--ledger", target)

    assert (second.exit_code, second.stdout) == (1, "")
    assert "the ledger is not empty (1 artifacts" in second.stderr


def test_a_check_is_clean_or_names_what_is_wrong(url):
    clean = run("check", "--ledger", url)
    with tampering(url) as tamper:
        tamper("UPDATE edits SET subject = 'Louvre'")
    found = run("check", "--ledger", url)
    as_json = run("check", "--ledger", url, "--output", "json")

    assert (clean.exit_code, clean.stderr) == (0, "")
    assert clean.stdout.splitlines() == [
        "scripted: 2 revisions, 1 edits, 1 reports",
        f"{url}: 0 findings",
    ]
    assert found.exit_code == as_json.exit_code == 1
    assert "column 'subject' says 'Louvre'" in found.stdout
    document = json.loads(as_json.stdout)
    assert found.stdout.endswith(f": {len(document['findings'])} findings\n")
    rows = [f for f in document["findings"] if not f["row"].startswith("triggers[")]
    assert [finding["problem"] for finding in rows] == [
        "column 'subject' says 'Louvre', its body 'Space Needle'"
    ]
    assert document["models"]["scripted"]["edits"] == 1


def test_a_check_looks_at_the_file_itself(url):
    database = Database(url)
    with database.writing() as connection:
        connection.exec_driver_sql("PRAGMA writable_schema = ON")
        connection.exec_driver_sql(
            "UPDATE sqlite_master SET sql = replace(sql, 'subject', 'patch') "
            "WHERE name = 'ix_revision_edits_edit'"
        )
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        connection.exec_driver_sql("DROP TRIGGER branches_update_guard")
        connection.exec_driver_sql("UPDATE branches SET sequence = -1")
    database.close()

    found = run("check", "--ledger", url)

    assert found.exit_code == 1
    assert "sqlite: CHECK constraint failed in branches" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["export"], 2, "Missing argument"),
        (["export", "x", "--output", "xml"], 2, "Invalid value"),
        (["export", "x", "--ledger", "sqlite:////nowhere/ledger.db"], 1, "no SQLite ledger"),
        (["check", "--ledger", "sqlite:////nowhere/ledger.db"], 1, "no SQLite ledger"),
        (["import", "/nowhere/x", "--ledger", "sqlite:///y"], 1, "cannot read /nowhere/x"),
        (["check", "--ledger", "mysql://me:hunter2@host/db"], 1, "cannot be kept in mysql"),
    ],
)
def test_what_goes_wrong_is_a_sentence_and_an_exit_code(
    tmp_path, monkeypatch, arguments, code, sentence
):
    monkeypatch.chdir(tmp_path)

    result = run(*arguments)

    assert result.exit_code == code
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert "hunter2" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_the_command_itself_exports(url, tmp_path):
    file = tmp_path / "ledger.jsonl.gz"

    subprocess.run(
        [sys.executable, "-m", "errata_server", "ledger", "export", file, "--ledger", url],
        check=True,
        capture_output=True,
    )

    assert lines_of(file)[0].startswith(b'{"kind":"errata ledger"')


@pytest.mark.parametrize(("patience", "drawn"), [(0.0, True), (60.0, False)])
def test_a_bar_is_drawn_for_what_takes_longer_than_a_moment(monkeypatch, capsys, patience, drawn):
    monkeypatch.setattr(terminal, "PATIENCE", patience)

    with terminal.progress() as report:
        report(Progress(stage="export", done=1, total=2))
        report(Progress(stage="export", done=2, total=2))

    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("export" in captured.err) is drawn
    assert bool(captured.err) is drawn
