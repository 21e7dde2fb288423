"""``operations list|show|wait|cancel``: what outlives the command that started it."""

import os
import signal
import subprocess
import sys
import time

import pytest

import errata
from errata_server.domain.errors import NoEffectError


@pytest.fixture
def running(server):
    """The id of a proposal that waits within its work until the engine may resume."""
    server.engine.resume.clear()
    with errata.Client(server.address, actor="ana") as client:
        fact = errata.Fact(template="{} is in the city of", target="Paris")
        operation = client.propose("Space Needle", fact)
    assert server.engine.reached.wait(10)
    yield operation.name.removeprefix("operations/")
    server.engine.resume.set()


def test_operations_are_listed_newest_first_with_how_they_stand(server, cli, running):
    server.engine.resume.set()
    cli("operations", "wait", running)
    server.engine.breaks["compute_patches"] = NoEffectError("nothing to change")
    cli("propose", "--subject", "Louvre", "--prompt", "{} is in the city of", "--target", "Oslo")

    failed, succeeded = cli.json("operations", "list").document["operations"]
    (newest,) = cli.json("operations", "list", "-n", 1).document["operations"]
    table = cli("operations", "list").out

    assert newest == failed
    assert (failed["state"], succeeded["state"]) == ("failed", "succeeded")
    assert failed["error"]["reason"] == "NO_EFFECT"
    assert (succeeded["id"], succeeded["name"]) == (running, f"operations/{running}")
    assert (succeeded["kind"], succeeded["actor"], succeeded["error"]) == ("propose", "ana", None)
    assert succeeded["created_at"] <= succeeded["finished_at"]
    assert running in table
    assert "NO_EFFECT" in table


def test_an_operation_is_shown_as_it_runs_and_with_what_it_came_to(server, cli, running):
    early = cli("operations", "show", running)
    early_document = cli.json("operations", "show", f"operations/{running}").document
    server.engine.resume.set()
    waited = cli.json("operations", "wait", running)
    late = cli("operations", "show", running)

    assert early.code == waited.code == late.code == 0
    assert f"Next: errata operations wait {running}" in early.out
    assert early_document["operation"]["state"] == "running"
    assert (early_document["operation"]["finished_at"], early_document["result"]) == (None, None)
    assert waited.document == cli.json("operations", "show", running).document
    edit = waited.document["result"]["edit"]["id"]
    assert f"Next: errata apply {edit}" in late.out
    assert "operations wait" not in late.out


def test_waiting_ends_as_the_operation_does(server, cli, running):
    server.engine.faults.add("efficacy")
    server.engine.resume.set()
    rejected = cli("operations", "wait", running)
    server.engine.breaks["compute_patches"] = NoEffectError("nothing to change")
    with errata.Client(server.address) as client:
        fact = errata.Fact(template="{} is in the city of", target="Oslo")
        failing = client.propose("Louvre", fact).name
    failed = cli.json("operations", "wait", failing)

    assert rejected.code == 3
    assert "cannot be applied as it is (efficacy)" in rejected.out
    assert failed.code == 1
    assert failed.document["error"]["reason"] == "NO_EFFECT"
    assert cli("operations", "show", failing).code == 0


def test_a_cancelled_operation_stops_and_stays_cancelled(server, cli, running):
    asked = cli("operations", "cancel", running)
    server.engine.resume.set()
    waited = cli.json("operations", "wait", running)
    again = cli("operations", "cancel", running)

    assert asked.code == again.code == 0
    assert f"Next: errata operations wait {running}" in asked.out
    assert waited.document["error"]["reason"] == "CANCELLED"
    assert again.out == f"{running} has ended: cancelled.\n"
    (listed,) = cli.json("operations", "list").document["operations"]
    assert listed["state"] == "cancelled"


def test_an_interrupted_wait_leaves_the_operation_running(server, cli, running):
    command = subprocess.Popen(
        [sys.executable, "-m", "errata.cli", "operations", "wait", running],
        env=os.environ
        | {"ERRATA_ADDRESS": server.address, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    time.sleep(3.0)  # until the command waits

    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=60)

    assert command.returncode == 130
    assert f"operations/{running} goes on" in err
    assert cli.json("operations", "show", running).document["operation"]["state"] == "running"


@pytest.mark.parametrize("verb", ["show", "wait", "cancel"])
def test_an_operation_there_is_not_is_an_error(cli, verb):
    ran = cli.json("operations", verb, "op-0123456789abcdef")

    assert ran.code == 1
    assert ran.document["error"]["reason"] == "OPERATION_NOT_FOUND"


def test_what_other_kinds_of_operations_came_to_is_shown_too(cli):
    cli("calibrate")
    cli("crawl", "Space Needle")
    cli("verify", "--live")
    cli("moments")
    cli("trace", "Space Needle is in the city of", "--subject", "Space Needle")

    for one in cli.json("operations", "list").document["operations"]:
        assert one["state"] == "succeeded"
        assert cli.json("operations", "show", one["id"]).document["result"]
        assert cli("operations", "show", one["id"]).code == 0
