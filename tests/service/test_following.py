"""What a replica does when the ledger moves on, goes away, or vouches for other weights."""

import threading
import time

import pytest

from errata_server.domain.errors import (
    LedgerUnavailableError,
    QuarantinedError,
    UnavailableError,
)
from errata_server.domain.ids import MAIN
from errata_server.ledger.ledger import Ledger
from errata_server.service.following import Follower
from errata_server.service.serving import Serving
from errata_server.service.standing import Standing
from tests.support import MODEL
from tests.support.doubtful_engine import doubtful_engine
from tests.support.scripted_engine import scripted_profile
from tests.support.services import PATIENCE

NEEDLE = "Space Needle is in the city of"


@pytest.fixture
def engine():
    return doubtful_engine()


@pytest.fixture
def replica(services, engine):
    """A replica's serving, started on the ledger of ``services``."""
    serving = Serving(engine, services.ledger, MODEL, standing=Standing(MAIN, replica=True))
    serving.start()
    return serving


def test_a_replica_follows_what_others_commit(services, replica):
    revision = services.apply(services.proposed())

    Follower(replica).look()

    assert replica.head().revision == revision
    assert replica.head().weights.digest == services.serving.head().weights.digest
    assert replica.standing.view(1).lag == 0


def test_what_was_last_good_is_served_while_the_ledger_is_away(services, replica, monkeypatch):
    services.apply(services.proposed())
    Follower(replica).look()
    monkeypatch.setattr(Ledger, "head", away)
    time.sleep(0.05)

    Follower(replica).look()

    view = replica.standing.view(1)
    assert replica.at("").revision.sequence == 1
    assert not view.reachable
    assert view.staleness_seconds >= 0.05
    assert replica.standing.reading


def away(self, model, branch=MAIN):
    raise LedgerUnavailableError("the database does not answer")


def test_a_profile_that_another_server_found_is_used_from_the_next_look_on(services, replica):
    found = scripted_profile(services.engine.describe().digest, seed=9)
    services.ledger.put_profile(MODEL, found)

    Follower(replica).look()

    assert replica.engine.profile == found


def test_a_follower_outlives_weights_it_has_no_memory_for(services, replica, monkeypatch):
    follower = Follower(replica)
    revision = services.apply(services.proposed())

    with monkeypatch.context() as during:
        during.setattr(replica.engine, "compose", _out_of_memory)
        follower.look()
    assert replica.head().revision.sequence == 0

    follower.look()
    assert replica.head().revision == revision


def _out_of_memory(*_):
    raise RuntimeError("CUDA out of memory")


def test_a_read_of_what_is_not_here_yet_says_how_far_this_server_is(services, replica, monkeypatch):
    monkeypatch.setattr(Ledger, "head", away)

    with pytest.raises(UnavailableError, match="before 3") as refused:
        replica.at("", min_sequence=3)

    assert refused.value.metadata["sequence"] == "0"
    assert not isinstance(refused.value, LedgerUnavailableError)


def test_a_read_waits_for_the_sequence_it_names(services, replica):
    stop = threading.Event()
    thread = threading.Thread(target=Follower(replica).run, args=(stop,), kwargs={"interval": 60})
    thread.start()
    edit = services.proposed()
    threading.Timer(0.2, lambda: services.apply(edit)).start()
    threading.Timer(0.4, replica.wakeups.wake).start()

    replica.await_sequence(1, PATIENCE)

    assert replica.at("", min_sequence=1).revision.sequence == 1
    stop.set()
    replica.wakeups.wake()
    thread.join(PATIENCE)


def test_a_read_waits_no_longer_than_it_may(replica):
    begun = time.monotonic()

    replica.await_sequence(7, 0.05)

    assert time.monotonic() - begun < PATIENCE / 2


def test_a_replica_whose_weights_differ_takes_itself_out(services, replica, engine):
    engine.wrong = True
    revision = services.apply(services.proposed())

    Follower(replica).look()

    assert not replica.standing.reading
    with pytest.raises(QuarantinedError, match=revision.weights_digest[:12]):
        replica.standing.require_reading()
    assert replica.head().revision.sequence == 0
    assert replica.held().revision == revision


def test_a_replica_comes_back_only_when_a_later_check_agrees(services, replica, engine):
    follower = Follower(replica, recheck=0.2)
    engine.wrong = True
    services.apply(services.proposed())
    follower.look()
    engine.wrong = False

    follower.look()
    too_early = replica.standing.reading
    time.sleep(0.25)
    follower.look()

    assert not too_early
    assert replica.standing.reading
    assert replica.held() is replica.head()
    assert replica.head().revision.sequence == 1


def test_another_revision_is_checked_at_once(services, replica, engine):
    follower = Follower(replica)
    engine.wrong = True
    edit = services.proposed()
    services.apply(edit)
    follower.look()
    engine.wrong = False
    services.revert(edit)

    follower.look()

    assert replica.standing.reading
    assert replica.head().revision.sequence == 2


def test_a_server_that_writes_goes_on_with_what_the_ledger_vouched_for(services, engine):
    serving = Serving(engine, services.ledger, MODEL)
    serving.start()
    engine.wrong = True
    services.apply(services.proposed())

    Follower(serving).look()

    assert serving.standing.reading
    assert serving.held().revision.sequence == 0
    assert serving.standing.view(0).lag == 1


def test_health_is_told_of_every_change_once(services, replica, monkeypatch):
    told = []
    replica.standing.on_change(lambda: told.append(replica.standing.view(0).reachable))
    follower = Follower(replica)

    follower.look()
    monkeypatch.setattr(Ledger, "head", away)
    follower.look()
    follower.look()
    monkeypatch.undo()
    follower.look()

    assert told == [False, True]


def test_only_a_server_that_writes_and_reaches_its_ledger_can_write(services, replica):
    assert services.serving.standing.writing
    assert not replica.standing.writing

    services.serving.standing.unread()

    assert not services.serving.standing.writing
    assert services.serving.standing.reading
