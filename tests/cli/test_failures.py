"""How commands fail: exit codes, where the words go, and never a traceback."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import errata
from errata.cli import _render as render
from errata.cli._screen import plain

TEMPLATE = "{} is in the city of"
PROPOSE = ("propose", "--subject", "Space Needle", "--prompt", TEMPLATE, "--target", "Paris")


@pytest.fixture
def rejected(server, cli):
    """An edit whose report failed."""
    server.engine.faults.update({"efficacy"})
    return cli.proposed()


def test_propose_exits_with_3_when_a_check_fails_and_shows_the_report(server, cli):
    server.engine.faults.update({"efficacy"})

    shown = cli(*PROPOSE)
    document = cli.json(*PROPOSE)

    assert shown.code == document.code == 3
    assert "FAILED" in shown.out
    assert "--override" in shown.out
    assert document.document["report"]["passed"] is False


def test_verify_exits_with_3_when_a_check_fails(server, cli, rejected):
    assert cli("verify", rejected).code == 3


def test_apply_of_a_rejected_edit_exits_with_3_and_names_the_check(cli, rejected):
    shown = cli("apply", rejected)

    assert shown.code == 3
    assert shown.out == ""
    assert "efficacy" in shown.err
    assert "override" in shown.err


def test_apply_of_a_rejected_edit_is_an_error_document_in_json(cli, rejected):
    ran = cli.json("apply", rejected)

    assert ran.code == 3
    assert ran.err == ""
    assert ran.document["error"]["reason"] == "VERIFICATION_FAILED"
    assert ran.document["error"]["metadata"]["failed"] == "efficacy"


def test_an_override_needs_its_reason_and_is_recorded(cli, rejected):
    assert cli("apply", rejected, "--override").code == 2

    document = cli.json("apply", rejected, "--override", "the check is wrong").document

    assert document["revision"]["override_reason"] == "the check is wrong"
    assert "(override)" in cli("log").out


def test_a_server_that_is_not_there_is_a_sentence(nobody):
    shown = nobody("status")
    ran = nobody.json("status")

    assert shown.code == ran.code == 1
    assert shown.out == ""
    assert shown.err.startswith("error: no errata server answers at 127.0.0.1:1; start one")
    assert ran.document["error"]["reason"] == "UNAVAILABLE"
    assert "Traceback" not in shown.err + ran.out


def test_an_unknown_name_fails_with_1(cli):
    for arguments in (("show", "e-000000000000"), ("apply", "e-1"), ("show", "99")):
        assert cli(*arguments).code == 1

    assert cli.json("show", "e-000000000000").document["error"]["reason"] == "EDIT_NOT_FOUND"


def test_a_stale_expectation_fails_with_1(cli):
    edit = cli.proposed()
    cli("apply", edit)

    ran = cli.json("revert", edit, "--expected-revision", "0")

    assert ran.code == 1
    assert ran.document["error"]["reason"] == "STALE_REVISION"


def test_a_finding_of_the_audit_fails_with_1(server, cli):
    server.engine.base["Louvre is in the city of"] = "Tokyo"  # someone writes to the checkpoint

    shown = cli("audit")

    assert shown.code == 1
    assert "CHANGED" in shown.out


@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        (("--paraphrase", ""), "PROMPT[=EXPECTED]"),
        (("--paraphrase", "=Paris"), "PROMPT[=EXPECTED]"),
        (("--paraphrase", "", "--prompt", "{} stands in", "--target", "Rome"), "PROMPT=EXPECTED"),
        (("--neighbour", ""), "PROMPT=EXPECTED"),
    ],
    ids=range(4),
)
def test_a_prompt_is_asked_for_in_the_form_it_may_have(nobody, arguments, form):
    refused = nobody.json(*PROPOSE, *arguments)

    assert refused.code == 2
    assert refused.document["error"]["message"].endswith(f" must be written as {form}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("apply",),
        ("revert",),
        ("revert", "e-1", "--to", "0"),
        ("nonsense",),
        ("log", "--limit", "0"),
        ("score", "a prompt"),
        ("status", "--output", "yaml"),
        (*PROPOSE, "--prompt", "{} was made by"),
        (*PROPOSE, "--neighbour", "without an expectation"),
        (*PROPOSE, "--paraphrase", "=Paris"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(nobody, arguments):
    shown = nobody(*arguments)

    assert shown.code == 2
    assert shown.out == ""
    assert "Traceback" not in shown.err


def test_wrong_usage_is_a_document_where_json_was_asked_for(nobody):
    for arguments in (("apply",), ("revert", "e-1", "--to", "0")):
        ran = nobody.json(*arguments)

        assert ran.code == 2
        assert ran.document["error"]["reason"] == "USAGE"


@pytest.mark.parametrize(
    "option",
    [
        ("--address", "http://somewhere"),
        ("--timeout", "0"),
        ("--timeout", "inf"),
        ("--timeout", "1e12"),
    ],
)
def test_a_connection_that_makes_no_sense_is_wrong_usage(nobody, option):
    assert nobody("status", *option).code == 2
    assert nobody.json("status", *option).document["error"]["reason"] == "USAGE"


def test_text_of_others_is_no_markup(cli):
    edit = cli.proposed()
    cli("approve", edit, "--comment", "[bold]red[/bold] [/]")

    assert "[bold]red[/bold] [/]" in cli("show", edit).out


def test_control_sequences_of_others_are_spelled_out():
    hostile = "\x1b[31mred\x07 \u202edrow\nline"

    assert plain(hostile) == "\\x1b[31mred\\x07 \\u202edrow\nline"
    assert str(render.cell(hostile)) == "\\x1b[31mred\\x07 \\u202edrow\\nline"


def test_no_color_and_no_terminal_mean_no_escape_codes(cli):
    assert "\x1b" not in cli("status", env={"NO_COLOR": "1", "FORCE_COLOR": ""}).out


def started(server, *arguments):
    environment = os.environ | {
        "ERRATA_ADDRESS": server.address,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "errata.cli", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def test_an_interrupted_proposal_is_cancelled_and_exits_with_130(server, cli):
    server.engine.resume.clear()
    command = started(server, *PROPOSE, "--output", "json")
    assert server.engine.reached.wait(60)
    time.sleep(3.0)  # until the command has been told the operation's name

    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=60)

    assert command.returncode == 130
    assert json.loads(out)["error"]["reason"] == "INTERRUPTED_BY_USER"
    assert "Traceback" not in err
    assert _last_operation_is_cancelled(server, err)


def _last_operation_is_cancelled(server, err):
    name = next(word for word in err.split() if word.startswith("operations/"))
    with errata.Client(server.address) as client, pytest.raises(errata.CancelledError):
        client.operation(name).result(timeout=10)
    return True


def test_a_fault_of_ours_is_a_sentence_too():
    code = (
        "import sys\n"
        "from errata.cli import __main__ as cli, models\n"
        "from errata.cli._options import command\n"
        "from errata.cli._screen import Screen\n"
        "def broken(screen: Screen) -> None:\n"
        "    raise ValueError('unforeseen')\n"
        "command(cli.app, 'broken')(broken)\n"
        "sys.argv = ['errata', 'broken']\n"
        "cli.main()\n"
    )
    path = os.pathsep.join(path for path in sys.path if path)

    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 1
    assert "ValueError: unforeseen; this is a fault of errata" in ran.stderr
    assert "Traceback" not in ran.stderr
