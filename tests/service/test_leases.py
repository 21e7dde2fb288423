"""Who carries out operations: one server, known to the others, and nobody for a stale one."""

import threading
import time
from contextlib import contextmanager

import pytest

from errata_server.domain.errors import LeaseHeldError, ReadOnlyReplicaError
from errata_server.domain.ids import Digest, RequestId
from errata_server.domain.operations import OperationKind, OperationState
from errata_server.ledger.database import Database
from errata_server.ledger.leases import Leases
from errata_server.service.leases import LeaseKeeper
from errata_server.service.operations import Operations
from tests.support import MODEL, NOON
from tests.support.services import PATIENCE, call, open_services


@contextmanager
def keeper(url, **given):
    database = Database(url)
    kept = LeaseKeeper(Leases(database), MODEL, now=lambda: NOON, **given)
    try:
        yield kept
    finally:
        kept.release()
        database.close()


@pytest.fixture
def registered(url):
    """The ledger of a server that has stopped."""
    with open_services(url):
        pass
    return url


def submit(operations, work=lambda progress: {}, request_id="r-1"):
    return operations.submit(
        OperationKind.VERIFY,
        actor="ana",
        request_id=RequestId(request_id),
        request_digest=Digest("a"),
        work=work,
    )


def test_a_second_server_says_who_holds_the_lease_and_for_how_long(registered):
    with keeper(registered, seconds=40) as first, keeper(registered) as second:
        first.start("10.0.0.1:50051")
        second.start("10.0.0.2:50051")

        with pytest.raises(LeaseHeldError, match=r"10\.0\.0\.1:50051") as refused:
            second.fence()

        assert first.fence().token > 0
        assert refused.value.metadata["holder"] == first.holder
        assert 30 < float(refused.value.metadata["remaining_seconds"]) <= 40


def test_a_server_that_stops_cleanly_is_followed_at_once(registered):
    with keeper(registered) as first, keeper(registered) as second:
        first.start()
        second.start()
        token = first.fence().token
        first.release()

        assert second.fence().token == token + 1


def test_a_server_that_vanishes_is_followed_once_its_lease_has_ended(registered):
    with keeper(registered, seconds=0.2) as vanished, keeper(registered) as second:
        vanished.start()
        second.start()
        with pytest.raises(LeaseHeldError):
            second.fence()
        time.sleep(0.3)

        assert second.fence()


def test_heartbeats_keep_the_lease(registered):
    stop = threading.Event()
    with keeper(registered, seconds=0.3) as first, keeper(registered) as second:
        first.start()
        thread = threading.Thread(target=first.keep, args=(stop,))
        thread.start()
        time.sleep(0.8)

        with pytest.raises(LeaseHeldError):
            second.fence()
        stop.set()
        thread.join(PATIENCE)


def test_a_heartbeat_outlives_what_nobody_foresaw(registered, monkeypatch):
    stop, asked = threading.Event(), []
    with keeper(registered, seconds=0.06) as first:
        first.start()

        def fails():
            asked.append(1)
            if len(asked) == 3:
                stop.set()
            raise MemoryError

        monkeypatch.setattr(first, "_ask", fails)
        first.keep(stop)

    assert len(asked) == 3


def test_a_replica_never_takes_it_and_says_where_to_go(registered):
    with keeper(registered) as writer, keeper(registered, replica=True) as replica:
        with pytest.raises(ReadOnlyReplicaError, match="without --follow"):
            replica.fence()
        writer.start("10.0.0.1:50051")
        replica.start()

        with pytest.raises(ReadOnlyReplicaError, match=r"10\.0\.0\.1:50051"):
            replica.fence()
        assert replica.last().holder == writer.holder


def test_a_proposal_is_refused_without_the_lease_and_an_apply_is_not(services, url):
    edit = services.proposed()
    with keeper(url) as other:
        elsewhere = Operations(services.ledger, MODEL, now=lambda: NOON, lease=other)
        with pytest.raises(LeaseHeldError):
            submit(elsewhere)
        elsewhere.close(grace=0)

        assert services.apply(edit).sequence == 1


def test_a_repeated_request_is_answered_without_the_lease(services, url):
    started = submit(services.operations)
    ended = services.operations.wait(started.id, PATIENCE)
    with keeper(url) as other:
        elsewhere = Operations(services.ledger, MODEL, now=lambda: NOON, lease=other)

        assert submit(elsewhere) == ended
        elsewhere.close(grace=0)


def test_a_proposal_of_a_server_that_was_overtaken_stores_nothing(services, url):
    """The first server computes; the second takes over; the first comes back and is refused."""
    services.proposed("Louvre", "Rome")
    services.engine.interludes["measure"] = lambda: overtake(url)

    ended = services.propose()

    assert ended.state is OperationState.FAILED
    assert ended.failure.reason == "INTERRUPTED"
    edits = services.ledger.edits(services.ledger.edit_ids(MODEL, limit=9))
    assert [edit.request.subject for edit in edits] == ["Louvre"]
    assert services.ledger.operation(ended.id) == ended


def overtake(url):
    with keeper(url, sole=True) as other:
        other.start()


def test_a_server_that_lost_the_lease_unnoticed_takes_it_again_where_it_can(services, url):
    overtake(url)

    assert services.propose().state is OperationState.SUCCEEDED


def test_a_change_is_safe_without_any_lease(services, url):
    edit = services.proposed()
    overtake(url)

    assert services.changes.apply([edit.id], "main", call()).revision.sequence == 1
