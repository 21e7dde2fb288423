import pytest

from errata_server.domain.checks import CheckKind, Verdict
from errata_server.domain.errors import CancelledError, InvalidInputError
from errata_server.domain.health import LiveVerification
from errata_server.domain.ids import MAIN, Digest
from errata_server.domain.operations import OperationState
from errata_server.service import results
from tests.support.services import PATIENCE, call

SUBJECTS = ("Space Needle", "Smith Tower", "Big Ben", "Prado", "Tower Bridge", "Colosseum")


@pytest.fixture
def live(services):
    """Six live edits, of which three pairs of names share a word."""
    edits = [services.proposed(subject, "Berlin") for subject in SUBJECTS]
    services.apply(*edits)
    return {edit.request.subject: edit.id for edit in edits}


def verified(services, **asked) -> LiveVerification:
    ended = services.operations.wait(
        services.upkeep.live_edits.verify(call(), **asked).id, PATIENCE
    )
    assert ended.state is OperationState.SUCCEEDED, ended.failure
    return services.upkeep.live_edits.result(Digest(ended.result["artifact"]))


def test_all_in_conflict_are_asked_and_a_sample_of_the_rest(services, live):
    found = verified(services, sample=2)

    near = {checked.subject for checked in found.edits if checked.conflict > 0.1}
    assert near == {"Smith Tower", "Tower Bridge"}
    assert (found.live_edits, found.in_conflict, found.drawn) == (6, 2, 2)
    assert found.passed
    tower = next(checked for checked in found.edits if checked.subject == "Smith Tower")
    assert tower.nearest == live["Tower Bridge"]
    assert tower.answers[0].before == "Seattle"
    assert tower.answers[0].after == "Berlin"


def test_the_same_seed_draws_the_same_sample_and_another_one_others(services, live):
    drawn = [
        {checked.edit for checked in verified(services, sample=2, seed=seed).edits}
        for seed in (1, 1, 2, 3)
    ]

    assert drawn[0] == drawn[1]
    assert len({frozenset(edits) for edits in drawn}) > 1


def test_nothing_is_drawn_beyond_what_there_is(services, live):
    assert len(verified(services, sample=100).edits) == 6


def test_an_edit_that_no_longer_holds_is_named(services, live):
    services.engine.faults.add(CheckKind.LIVE_EDITS)
    broken = services.proposed("Museum of Flight", "Rome")
    services.changes.apply([broken.id], MAIN, call(), override="to see it break")

    found = verified(services, sample=100)

    assert not found.passed
    assert found.edits[0].edit == broken.id
    assert [checked.edit for checked in found.edits if not checked.held] == [broken.id]


def test_without_live_edits_there_is_nothing_to_ask(services):
    found = verified(services)

    assert found.edits == ()
    assert found.passed
    assert found.health.verdict is Verdict.PASSED


@pytest.mark.parametrize("sample", [-1, 10_001])
def test_a_sample_out_of_range_is_refused(services, sample):
    with pytest.raises(InvalidInputError, match="sample"):
        services.upkeep.live_edits.verify(call(), sample=sample)


def test_a_change_of_several_edits_is_verified_and_a_smaller_one_is_not(services, live):
    assert services.upkeep.live_edits.after_change(1, call()) is None
    started = services.upkeep.live_edits.after_change(2, call())

    assert services.operations.wait(started, PATIENCE).state is OperationState.SUCCEEDED


def test_a_change_stands_even_if_its_verification_cannot_start(services, live):
    services.operations.close(grace=0)

    assert services.upkeep.live_edits.after_change(2, call()) is None


def test_a_verification_can_be_cancelled(services, live):
    services.engine.resume.clear()
    started = services.upkeep.live_edits.verify(call())
    services.operations.cancel(started.id)
    ended = services.operations.wait(started.id, PATIENCE)

    assert ended.state is OperationState.CANCELLED
    assert ended.failure.reason == CancelledError.reason


def test_health_is_measured_once_a_revision(services, live):
    first = services.upkeep.health.at(services.serving.head())
    asked = services.engine.calls.count("strains")

    assert services.upkeep.health.at(services.serving.head()) is first
    assert services.engine.calls.count("strains") == asked
    assert (first.live_edits, first.layers[0].strain.live_edits) == (6, 6)
    services.apply(services.proposed("Louvre", "Oslo"))
    assert services.upkeep.health.at(services.serving.head()).live_edits == 7


def test_health_warns_where_drift_says_so(services):
    services.engine.faults.add(CheckKind.PERPLEXITY)
    edit = services.proposed()
    services.changes.apply([edit.id], MAIN, call(), override="to see it drift")

    health = services.upkeep.health.at(services.serving.head())

    assert health.verdict is Verdict.WARNED
    assert "retrain soon" in health.warnings[0]


def test_a_verification_comes_back_as_it_was_stored(services, live):
    found = verified(services)

    assert results.decode(LiveVerification, results.encode(found)) == found
