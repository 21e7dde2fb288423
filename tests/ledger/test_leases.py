"""Leases: one holder at a time, by the database's clock, and nothing stored under an old token."""

import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from errata_server.domain.errors import LeaseLostError, ModelNotFoundError
from errata_server.domain.ids import ModelId
from errata_server.domain.operations import OperationKind, OperationState
from errata_server.ledger.bodies import operation_body
from errata_server.ledger.leases import Claim, Leases, under
from tests.support import MODEL, NOON
from tests.support.databases import row_count
from tests.support.histories import operation
from tests.support.tampering import raw_connection, tampering

LATER = NOON + timedelta(minutes=5)


def claim(holder="one", *, seconds=60.0, sole=False):
    return Claim(model=MODEL, holder=holder, address=f"{holder}:1", seconds=seconds, sole=sole)


@pytest.fixture
def leases(chronicler, database):
    return Leases(database)


def take(leases, holder="one", **given):
    return leases.take(claim(holder, **given), at=LATER)


def succeeded(running):
    return replace(running, state=OperationState.SUCCEEDED, finished_at=LATER, result={"tokens": 3})


def test_the_first_to_ask_holds_the_lease(leases):
    assert leases.get(MODEL) is None

    lease = take(leases).lease

    assert (lease.holder, lease.address, lease.token) == ("one", "one:1", 1)
    assert 50 < lease.remaining_seconds <= 60
    assert leases.get(MODEL).token == 1


def test_another_is_told_who_holds_it_and_for_how_long(leases):
    take(leases, seconds=30)

    told = take(leases, "two").lease

    assert (told.holder, told.token) == ("one", 1)
    assert 20 < told.remaining_seconds <= 30


def test_the_holder_renews_it_under_the_same_token(leases):
    take(leases, seconds=0.001)
    time.sleep(0.01)

    renewed = take(leases, seconds=60).lease

    assert renewed.token == 1
    assert renewed.remaining_seconds > 50


def test_a_lease_that_has_ended_is_taken_over_under_the_next_token(leases):
    take(leases, seconds=0.001)
    time.sleep(0.01)

    taken = take(leases, "two").lease

    assert (taken.holder, taken.token) == ("two", 2)
    assert take(leases).lease.holder == "two"


def test_a_lease_given_up_is_taken_over_at_once(leases):
    first = take(leases).lease
    leases.release(first.fence)

    assert take(leases, "two").lease.token == 2
    leases.release(first.fence)  # late: it is another's by now
    assert leases.get(MODEL).remaining_seconds > 50


def test_the_only_server_on_a_ledger_need_not_wait(leases):
    take(leases)

    assert take(leases, "two", sole=True).lease.token == 2


def test_an_unknown_model_has_no_lease(leases):
    with pytest.raises(ModelNotFoundError):
        leases.take(replace(claim(), model=ModelId("nobody")), at=LATER)


def test_of_many_that_ask_at_once_one_gets_it(leases):
    found, together = [], threading.Barrier(8)

    def ask(number):
        together.wait()
        found.append(take(leases, f"holder-{number}").lease)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({lease.holder for lease in found}) == 1
    assert {lease.token for lease in found} == {1}


def test_what_ran_under_an_earlier_token_is_ended_by_whoever_takes_over(chronicler, leases):
    ledger = chronicler.ledger
    unleased = ledger.start_operation(operation("op-0", request_id="r-0"))
    first = take(leases)
    assert first.interrupted == 1
    with under(first.lease.fence):
        done = ledger.start_operation(operation("op-1", request_id="r-1"))
        ledger.finish_operation(succeeded(done))
        lost = ledger.start_operation(operation("op-2", request_id="r-2"))

    assert take(leases).interrupted == 0
    assert take(leases, "two", sole=True).interrupted == 1

    ended = ledger.operation(lost.id)
    assert (ended.state, ended.finished_at) == (OperationState.FAILED, LATER)
    assert ended.failure is not None
    assert ended.failure.reason == "INTERRUPTED"
    assert ledger.operation(done.id) == succeeded(done)
    assert ledger.operation(unleased.id).state is OperationState.FAILED


def test_a_second_server_that_is_refused_ends_nothing(chronicler, leases):
    ledger = chronicler.ledger
    with under(take(leases).lease.fence):
        running = ledger.start_operation(operation())

    take(leases, "two")

    assert ledger.operation(running.id) == running


def test_nothing_is_stored_under_a_token_that_is_no_longer_the_model_s(
    chronicler, leases, ledger_url
):
    ledger = chronicler.ledger
    stored = chronicler.propose()
    edits, reports = row_count(ledger_url, "edits"), row_count(ledger_url, "reports")
    stale = take(leases).lease.fence
    with under(stale):
        running = ledger.start_operation(operation())
    take(leases, "two", sole=True)
    report = replace(ledger.latest_report(stored.edit.id), created_at=LATER)
    attempts = [
        lambda: chronicler.propose("Louvre"),
        lambda: ledger.record_report(report),
        lambda: ledger.start_operation(operation("op-2", request_id="r-2")),
        lambda: ledger.finish_operation(succeeded(running)),
    ]

    with under(stale):
        for attempt in attempts:
            with pytest.raises(LeaseLostError, match="taken over"):
                attempt()

    assert row_count(ledger_url, "edits") == edits
    assert row_count(ledger_url, "reports") == reports
    assert row_count(ledger_url, "operations") == 1
    assert ledger.operation(running.id).failure.reason == "INTERRUPTED"


def test_a_lease_that_has_ended_still_fences_until_somebody_takes_over(chronicler, leases):
    fence = take(leases, seconds=0.001).lease.fence
    time.sleep(0.01)

    with under(fence):
        assert chronicler.ledger.start_operation(operation()) == operation()


def test_a_fence_ends_with_its_block(chronicler, leases):
    stale = take(leases).lease.fence
    take(leases, "two", sole=True)
    with under(stale), pytest.raises(LeaseLostError):
        chronicler.ledger.start_operation(operation())

    assert chronicler.ledger.start_operation(operation()) == operation()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE leases SET token = token - 1",
        "UPDATE leases SET token = token + 2",
        "UPDATE leases SET holder = 'another'",
        "DELETE FROM leases",
        "INSERT INTO leases SELECT * FROM leases",
    ],
)
def test_the_database_itself_gives_no_token_out_twice(leases, ledger_url, statement):
    take(leases)
    take(leases, "two", sole=True)
    connection = raw_connection(ledger_url)

    with pytest.raises(Exception, match=r"errata: |pk_leases"):
        connection.execute(statement)
    connection.close()

    assert leases.get(MODEL).token == 2


def test_a_kind_of_a_newer_server_is_listed_and_interrupted_like_any_other(
    chronicler, leases, ledger_url
):
    ledger = chronicler.ledger
    ledger.start_operation(operation())
    name, body = "export_adapter", operation_body(operation())
    with tampering(ledger_url) as execute:
        newer = body.decode().replace('"kind":"propose"', f'"kind":"{name}"')
        execute(f"UPDATE operations SET body = {_literal(newer, ledger_url)}")

    assert [found.kind for found in ledger.operations(MODEL, 10)] == [OperationKind.OTHER]
    assert take(leases).interrupted == 1
    assert ledger.operation(operation().id).state is OperationState.FAILED


def _literal(text, url):
    """``text`` as a literal of bytes."""
    hexadecimal = text.encode().hex()
    return f"X'{hexadecimal}'" if url.startswith("sqlite") else f"'\\x{hexadecimal}'"
