"""Handles on long-running operations."""

import pytest

import errata
from errata_server.domain.errors import NoEffectError


@pytest.fixture
def held(server, client, moved):
    """An operation that waits after its first step until the engine may resume."""
    server.engine.resume.clear()
    operation = client.propose("Space Needle", moved)
    assert server.engine.reached.wait(10)
    return operation


def test_progress_is_told_whenever_it_changes_and_ends_with_the_operation(server, client, moved):
    server.engine.step_seconds = 0.08

    seen = list(client.propose("Space Needle", moved))

    assert len(seen) == len(set(seen)) > 3
    assert {"values", "checks"} <= {progress.stage for progress in seen}


def test_iterating_does_not_raise_and_asking_for_the_result_does(server, client, moved):
    server.engine.breaks["compute_patches"] = NoEffectError("nothing makes the model say so")
    operation = client.propose("Space Needle", moved)

    list(operation)

    assert operation.done
    with pytest.raises(errata.NoEffectError, match="nothing makes"):
        operation.result()


def test_waiting_too_long_leaves_the_operation_running(server, client, held):
    with pytest.raises(errata.DeadlineError, match="goes on"):
        held.result(timeout=0.2)

    server.engine.resume.set()
    assert held.result(timeout=20).report.passed


def test_a_cancelled_operation_ends_as_cancelled(held):
    held.cancel()

    with pytest.raises(errata.CancelledError):
        held.result(timeout=20)


def test_an_operation_is_picked_up_again_by_its_name(server, client, held):
    again = client.operation(held.name)
    by_id = client.operation(held.name.removeprefix("operations/"))
    server.engine.resume.set()

    assert again.kind == by_id.kind == "propose"
    assert again.result(timeout=20) == by_id.result(timeout=20) == held.result(timeout=20)


def test_operations_are_listed_newest_first_over_pages(server, client, held):
    server.engine.resume.set()
    held.result(timeout=20)
    server.engine.breaks["compute_patches"] = NoEffectError("nothing makes the model say so")
    list(failing := client.propose("Louvre", errata.Fact(template="{} is in", target="Oslo")))

    failed, done = client.operations(page_size=1)

    assert [failed.name, done.name] == [failing.name, held.name]
    assert (done.kind, done.actor, done.error) == ("propose", "ana", None)
    assert done.created_at <= done.finished_at
    assert done.result() == held.result()
    assert isinstance(failed.error, errata.NoEffectError)


def test_a_running_operation_has_not_ended_and_has_no_error(held):
    assert (held.done, held.finished_at, held.error) == (False, None, None)


def test_an_unknown_operation_is_not_found(client):
    with pytest.raises(errata.OperationNotFoundError):
        client.operation("op-none")
