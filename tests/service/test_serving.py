import sqlite3
import threading

import pytest

from errata_server import telemetry
from errata_server.domain.edits import AppliedSet
from errata_server.domain.errors import (
    InvalidInputError,
    LedgerCorruptError,
    ModelNotFoundError,
    RevisionNotFoundError,
    SchemaMismatchError,
    UnavailableError,
)
from errata_server.domain.patches import Composition
from errata_server.ledger.ledger import Ledger
from errata_server.service import serving as serving_module
from errata_server.service.following import Follower
from errata_server.service.serving import Serving
from tests.support import MODEL
from tests.support.scripted_engine import ScriptedEngine
from tests.support.services import PATIENCE, call, open_services, scripted_engine

NEEDLE = "Space Needle is in the city of"


@pytest.fixture
def other(url):
    with open_services(url) as opened:
        yield opened


def test_nothing_is_served_before_the_ledger_is_replayed(services):
    serving = Serving(services.engine, services.ledger, MODEL)

    with pytest.raises(UnavailableError, match="replaying"):
        serving.head()


def test_a_restarted_server_serves_what_the_killed_one_did(services, url):
    services.apply(services.proposed())
    services.apply(services.proposed("Louvre", "Rome"))

    with open_services(url) as restarted:
        assert restarted.serving.head().revision == services.serving.head().revision
        assert restarted.serving.head().weights.digest == services.serving.head().weights.digest
        assert restarted.answer(NEEDLE) == "Paris"


class Rounding(ScriptedEngine):
    """An engine whose composed tensors are not those of the machine that committed."""

    def compose(self, patches, load, composition):
        weights = super().compose(patches, load, composition)
        object.__setattr__(weights, "digest", weights.digest[::-1])
        return weights


def test_weights_that_are_not_what_the_head_vouches_for_are_not_served(services):
    services.apply(services.proposed())
    engine = scripted_engine()
    serving = Serving(Rounding(base=engine.base), services.ledger, MODEL)

    with pytest.raises(LedgerCorruptError, match="errata audit"):
        serving.start()
    with pytest.raises(UnavailableError):
        serving.head()


def test_a_reader_keeps_the_revision_it_took(services):
    pinned = services.serving.head()

    services.apply(services.proposed())

    assert services.engine.answer(NEEDLE, pinned.weights) == "Seattle"
    assert services.answer(NEEDLE) == "Paris"


def test_what_is_served_only_moves_forward(services):
    earlier = services.serving.head()
    services.apply(services.proposed())
    later = services.serving.head()

    services.serving.publish(earlier)

    assert services.serving.head() is later


def test_any_revision_is_served_beside_any_other(services):
    edit = services.proposed()
    applied = services.apply(edit)
    services.revert(edit)

    for reference in (applied.id, applied.id[:10], "1", "main@1"):
        pinned = services.serving.at(reference)
        assert pinned.revision == applied
        assert services.engine.answer(NEEDLE, pinned.weights) == "Paris"
    assert services.serving.at("").revision.sequence == 2
    assert services.serving.at("main").revision.sequence == 2
    assert services.serving.at("base").applied == AppliedSet()


def test_an_unknown_revision_is_not_found(services):
    with pytest.raises(RevisionNotFoundError):
        services.serving.at("f" * 64)


def test_a_historic_revision_is_composed_once(services):
    edit = services.proposed()
    applied = services.apply(edit)
    services.revert(edit)
    services.engine.calls.clear()

    first, second = services.serving.at(applied.id), services.serving.at("1")

    assert first is second
    assert services.engine.calls.count("compose") == 1


def test_the_head_is_not_composed_again(services):
    head = services.apply(services.proposed())
    services.engine.calls.clear()

    assert services.serving.at(head.id) is services.serving.head()
    assert "compose" not in services.engine.calls


def test_historic_revisions_are_dropped_when_there_are_too_many(services, monkeypatch):
    monkeypatch.setattr(serving_module, "MAX_HISTORIC", 2)
    edit = services.proposed()
    for _ in range(2):
        services.apply(edit)
        services.revert(edit)
    for sequence in ("1", "2", "3"):
        services.serving.at(sequence)
    services.engine.calls.clear()

    services.serving.at("3")
    assert "compose" not in services.engine.calls
    services.serving.at("1")
    assert services.engine.calls.count("compose") == 1


def test_a_server_catches_up_with_what_another_committed(services, other):
    revision = other.apply(other.proposed())
    assert services.serving.head().revision.sequence == 0

    services.serving.refresh()

    assert services.serving.head().revision == revision
    assert services.answer(NEEDLE) == "Paris"


def test_a_follower_catches_up_by_itself(services, other):
    stop = threading.Event()
    thread = threading.Thread(
        target=Follower(services.serving).run, args=(stop,), kwargs={"interval": 0.01}
    )
    thread.start()
    other.apply(other.proposed())

    caught_up = services.serving.wait_beyond(0, PATIENCE)

    stop.set()
    thread.join(PATIENCE)
    assert caught_up
    assert services.answer(NEEDLE) == "Paris"


def test_a_follower_outlives_whatever_is_wrong_with_the_database(services, monkeypatch):
    stop, again = threading.Event(), threading.Event()
    failures = iter([SchemaMismatchError("no such table"), ModelNotFoundError("no row")])

    def head(self, model, branch):
        for failure in failures:
            raise failure
        again.set()
        return services.serving.head().revision

    monkeypatch.setattr(Ledger, "head", head)
    thread = threading.Thread(
        target=Follower(services.serving).run, args=(stop,), kwargs={"interval": 0.01}
    )
    thread.start()

    assert again.wait(PATIENCE)
    stop.set()
    thread.join(PATIENCE)


def test_a_reader_that_names_a_sequence_gets_it_or_a_later_one(services, other):
    other.apply(other.proposed())

    assert services.serving.at("", min_sequence=1).revision.sequence == 1
    with pytest.raises(UnavailableError, match="retry"):
        services.serving.at("", min_sequence=2)
    with pytest.raises(InvalidInputError, match="min_sequence"):
        services.serving.at("0", min_sequence=1)


def test_waiting_for_a_revision_ends_with_the_time(services):
    assert not services.serving.wait_beyond(0, 0.01)


def test_weights_are_prepared_without_being_served(services):
    edit = services.proposed()
    applied = services.changes.apply(
        [edit.id], services.history.head().branch, call(), validate_only=True
    ).applied

    weights = services.serving.prepare(applied, Composition.GUARDED)

    assert services.engine.answer(NEEDLE, weights) == "Paris"
    assert services.answer(NEEDLE) == "Seattle"


def test_a_corrupt_artifact_keeps_a_server_from_starting(services, url):
    services.apply(services.proposed())
    path = url.removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'artifacts'"
        ).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE artifacts SET payload = X'00'")
    connection.close()

    with pytest.raises(LedgerCorruptError, match="artifacts"), open_services(url):
        pass


def test_a_server_that_cannot_catch_up_shows_how_far_it_is_behind(services, other):
    services.apply(services.proposed())
    other.engine.breaks["compose"] = LedgerCorruptError("the artifact is damaged")

    with pytest.raises(LedgerCorruptError):
        other.serving.refresh()

    assert telemetry.REGISTRY.get_sample_value("errata_head_sequence") == 1
    assert telemetry.REGISTRY.get_sample_value("errata_served_sequence") == 0
