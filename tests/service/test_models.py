import pytest

from errata_server.domain.errors import InvalidInputError, ModelMismatchError, NotFoundError
from errata_server.domain.ids import ProfileId
from errata_server.domain.operations import OperationState
from tests.support import MODEL, NOON
from tests.support.services import PATIENCE, call


def test_a_model_is_described_with_what_is_live(services):
    services.apply(services.proposed(target="Paris"))
    services.apply(services.proposed(target="Rome"))

    view = services.models.describe()

    assert view.description == services.engine.describe()
    assert view.profile == services.engine.profile
    assert (view.live_edits, view.applied_edits) == (1, 2)
    assert view.served is services.serving.head()
    assert view.started_at == NOON


def test_calibrating_stores_the_profile_and_uses_it(services):
    before = services.engine.profile

    started = services.models.calibrate(7, call())
    ended = services.operations.wait(started.id, PATIENCE)

    profile = services.models.profile(ProfileId(ended.result["profile"]))
    assert profile.seed == 7
    assert profile != before
    assert services.engine.profile == profile
    assert services.ledger.latest_profile(MODEL) == profile


def test_a_profile_is_stored_before_it_is_used(services):
    before = services.engine.profile
    services.engine.breaks["use_profile"] = ModelMismatchError("cut off right here")

    ended = services.operations.wait(services.models.calibrate(7, call()).id, PATIENCE)

    assert ended.state is OperationState.FAILED
    assert services.engine.profile == before
    assert services.ledger.latest_profile(MODEL).seed == 7


def test_an_unknown_profile_is_not_found(services):
    with pytest.raises(NotFoundError):
        services.models.profile(ProfileId("0" * 64))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_cannot_be_stored_is_refused(services, seed):
    with pytest.raises(InvalidInputError, match="seed"):
        services.models.calibrate(seed, call())


def test_moments_are_collected_over_given_texts_or_the_servers_own(services):
    given = services.models.collect_moments(["three words here"], call())
    own = services.models.collect_moments([], call())

    first = services.operations.wait(given.id, PATIENCE)
    second = services.operations.wait(own.id, PATIENCE)

    assert first.result["tokens"] == 3
    assert second.result["tokens"] == sum(len(t.split()) for t in services.models.texts)
    assert first.result["corpus"] != second.result["corpus"]


def test_texts_without_a_word_are_refused(services):
    with pytest.raises(InvalidInputError, match="no text"):
        services.models.collect_moments(["  "], call())
