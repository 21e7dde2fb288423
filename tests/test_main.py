"""The command ``errata-server``: arguments, exit codes and what is printed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from errata.v1 import ledger_pb2
from errata_server import __main__ as main
from errata_server import app
from tests.support.logs import kept_logging
from tests.support.services import scripted_engine
from tests.support.wire import PARENT, Wire

SCRIPTED = """
import sys
from errata_server import __main__ as main, app
from tests.support.logs import kept_logging
from tests.support.services import scripted_engine
app.load_engine = lambda settings: scripted_engine()
sys.argv[0] = "errata-server"
main.main()
"""
ROOT = Path(__file__).parents[1]


def run(*arguments):
    return CliRunner().invoke(main.cli, arguments)


@pytest.fixture(autouse=True)
def logging_as_before():
    with kept_logging():
        yield


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(app, "load_engine", lambda _: scripted_engine())


def test_migrate_says_what_it_did_and_does_it_once(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"

    first, second = run("migrate", "--ledger", url), run("migrate", "--ledger", url)

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stdout.endswith("migrated\n")
    assert second.stdout.endswith("nothing to do\n")


def test_calibrate_keeps_the_profile_in_the_ledger(tmp_path, scripted):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"

    result = run("calibrate", "--model", "scripted", "--ledger", url, "--seed", "3")

    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("profile ")


def test_moments_says_how_many_tokens_it_saw(tmp_path, scripted):
    path = tmp_path / "texts.txt"
    path.write_text("two words\nand three more\n")

    result = run("moments", "--model", "scripted", "--texts", str(path))

    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("5 tokens")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["serve", "--listen", "0.0.0.0:0"], 2, "say insecure if the network is trusted"),
        (["serve", "--dtype", "int8"], 2, "dtype: input should be"),
        (["serve", "--no-such-option"], 2, "No such option"),
        (["migrate", "--ledger", "mysql://a:hunter2@b/c"], 1, "errata-server: "),
        (["migrate", "--ledger", "sqlite:////nowhere/at/all.db"], 1, "no folder /nowhere/at for"),
        (["moments", "--texts", "missing.txt", "--model", "x"], 1, "cannot read missing.txt"),
    ],
)
def test_what_goes_wrong_is_a_sentence_and_an_exit_code(arguments, code, sentence):
    result = run(*arguments)

    assert result.exit_code == code
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert "hunter2" not in result.output


def test_a_served_process_says_ready_answers_and_leaves_on_sigterm(tmp_path):
    ready_file = tmp_path / "ready.json"
    command = [
        *(sys.executable, "-c", SCRIPTED, "serve", "--model", "scripted"),
        *("--ledger", f"sqlite:///{tmp_path / 'ledger.db'}", "--listen", "127.0.0.1:0"),
        *("--ready-file", str(ready_file), "--drain-seconds", "1"),
    ]
    paths = ":".join(str(path) for path in (ROOT, ROOT / "server", ROOT / "client"))
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": paths, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        with grpc.insecure_channel(ready["address"]) as channel:
            head = Wire(channel).ledger.GetHead(ledger_pb2.GetHeadRequest(parent=PARENT))
        said = json.loads(ready_file.read_text())
        process.send_signal(signal.SIGTERM)
        output, log = process.communicate(timeout=60)

    assert head.revision.sequence == 0
    assert said == ready
    assert process.returncode == 0, log
    assert output == ""
    assert [json.loads(line)["event"] for line in log.splitlines()][-1] == "stopped"
