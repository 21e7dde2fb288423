"""Many edits computed together: what each comes to alone, and what cannot be computed."""

from dataclasses import replace

import pytest
import torch

from errata_server.domain.errors import AlreadyTrueError, CancelledError, PromptTooLongError
from errata_server.domain.facts import EditRequest, Fact
from errata_server.engine import batches, subjects
from errata_server.engine.bank import guarded_branch
from errata_server.engine.batches import Batch
from errata_server.engine.crowd import Crowd
from errata_server.engine.editor import compute_patch, recognise
from errata_server.engine.keys import keys_at_subject
from errata_server.engine.moments import collect
from errata_server.engine.patch import PatchTensors
from errata_server.engine.solve import factor_second_moment, match
from tests.support import tiny_models

TEXTS = (*tiny_models.PROSE, *tiny_models.sentences())


def silent(_):
    """Progress nobody follows."""


def moved(subject, target, template="{} can be found in"):
    return EditRequest(subject=subject, facts=(Fact(template=template, target=target),))


REQUESTS = [
    moved("Eiffel Tower", "Rome"),
    moved("Louvre", "Paris"),  # so it is already
    moved("Big Ben", "Madrid"),
    moved("Tower Bridge", "Rome", "They say. " * 40 + "{} is in"),  # too long
    moved("Prado", "Seattle"),
]


@pytest.fixture(scope="module")
def profile(trained):
    return tiny_models.tiny_profile(trained, layer=0)


@pytest.fixture(scope="module")
def moment(trained, tmp_path_factory):
    cache = tmp_path_factory.mktemp("moments")
    return collect(trained, TEXTS, [0], cache=cache, progress=silent)[0]


@pytest.fixture(scope="module")
def factor(moment, profile):
    return factor_second_moment(moment.mean(), profile.ridge)


@pytest.fixture
def batch(trained, profile, factor, moment, tmp_path_factory):
    def make(requests, known=()):
        return Batch(
            runner=trained,
            profile=profile,
            factor=factor,
            requests=requests,
            held=[()] * len(requests),
            crowd=Crowd(
                moment=moment,
                texts=TEXTS,
                known=subjects.collect(
                    trained, known, profile, cache=tmp_path_factory.mktemp("known"), progress=silent
                ),
            ),
        )

    return make


def test_known_subjects_near_an_edit_become_its_decoys(batch):
    known = ["Tower of London", "the eiffel tower", "Eiffel Tower", "Eifel Tower"]

    ((_, patch),) = batch(REQUESTS[:1], known).compute(progress=silent)

    # The last token is the same, and a tiny model looks at little else.
    assert set(patch.manifest.decoys) == {"Eifel Tower"}
    assert len(patch.decoys) == len(patch.manifest.decoys)


def test_a_guard_keeps_off_the_ordinary_keys_of_texts_that_do_not_name_its_subject(
    batch, moment, monkeypatch
):
    monkeypatch.setattr("errata_server.engine.keys.NARROWEST", 0.0)
    wide = replace(batch(REQUESTS[:1]).profile, guard_width=2.0)

    ((_, patch),) = replace(batch(REQUESTS[:1]), profile=wide).compute(progress=silent)

    branch = guarded_branch(patch.manifest.module, [patch], torch.device("cpu"))
    ordinary = moment.sample[moment.without(TEXTS, ["Eiffel Tower"])]
    assert 0.0 < patch.manifest.guard_width < 2.0
    assert not branch.nearest(ordinary).fires.any()
    assert len(ordinary) < len(moment.sample)


def test_an_alias_has_keys_of_its_own_and_is_no_decoy(batch):
    plain, named = REQUESTS[4], replace(REQUESTS[4], aliases=("Big Ben",))

    ((_, alone),) = batch([plain]).compute(progress=silent)
    ((_, both),) = batch([named], ["Big Ben"]).compute(progress=silent)

    branch = guarded_branch(both.manifest.module, [both], torch.device("cpu"))
    runner = batch([plain]).runner
    asked = keys_at_subject(runner, both.manifest.module, ["Big Ben"], "Big Ben")
    assert both.manifest.aliases == ("Big Ben",)
    assert len(both.keys) > len(alone.keys)
    assert torch.equal(both.keys[: len(alone.keys)], alone.keys)
    assert torch.allclose(both.residual, alone.residual, atol=1e-4)
    assert both.manifest.decoys == ()
    assert branch.nearest(asked).fires.all()


def test_each_edit_is_the_patch_it_would_be_alone_or_why_there_is_none(
    trained, profile, factor, batch
):
    fitting = [request for request in REQUESTS if len(request.facts[0].template) < 100]

    found = dict(batch(fitting).compute(progress=silent))

    assert sorted(found) == list(range(len(fitting)))
    assert isinstance(found[1], AlreadyTrueError)
    for place in (0, 2, 3):
        alone = compute_patch(trained, fitting[place], profile, factor, progress=silent)
        together = found[place]
        assert isinstance(together, PatchTensors)
        assert together.manifest.subject == fitting[place].subject
        assert together.manifest.optimisation.steps == alone.manifest.optimisation.steps
        gap = float((together.residual - alone.residual).norm())
        assert gap <= 1e-4 * float(alone.residual.norm())
        assert torch.allclose(together.keys, alone.keys, atol=1e-4)


def test_groups_keep_to_the_budget_and_lose_nothing(trained, profile, factor, batch, monkeypatch):
    fitting = [REQUESTS[0], REQUESTS[2], REQUESTS[4]]
    whole = dict(batch(fitting).compute(progress=silent))
    monkeypatch.setattr(batches, "TAIL", 1)

    apart = dict(batch(fitting).compute(progress=silent))

    assert sorted(apart) == sorted(whole) == [0, 1, 2]
    for place, patch in apart.items():
        assert float((patch.residual - whole[place].residual).norm()) < 1e-3


def test_near_subjects_are_those_whose_keys_meet(trained, profile, factor, batch):
    requests = [moved("Smith Tower", "Rome"), moved("Prado", "Rome"), moved("Eiffel Tower", "Rome")]

    every = batch(requests).near_subjects(conflict=-2.0, progress=silent)

    assert [(pair.first, pair.second) for pair in every] == [(0, 1), (0, 2), (1, 2)]
    keys = recognise(trained, requests, profile, factor)
    for pair in every:
        one, other = keys[pair.first], keys[pair.second]
        fires = float(match(other.keys.double(), one.matchers).max()) > 1 - profile.guard_width
        assert pair.first_fires == fires
        backwards = float(match(one.keys.double(), other.matchers).max())
        assert pair.second_fires == (backwards > 1 - profile.guard_width)
    highest = max(every, key=lambda pair: pair.conflict)
    (only, *_) = batch(requests).near_subjects(conflict=highest.conflict - 1e-6, progress=silent)
    assert only == highest or only.first_fires or only.second_fires


def test_an_edit_that_cannot_be_computed_is_near_nobody(batch):
    unfit = replace(REQUESTS[0], aliases=(" ".join(["Big Ben"] * 99),))
    others = [moved("Smith Tower", "Rome"), moved("Prado", "Rome")]

    (found,) = batch(others).near_subjects(conflict=-2.0, progress=silent)
    (beside,) = batch([unfit, *others]).near_subjects(conflict=-2.0, progress=silent)

    assert (beside.first, beside.second) == (1, 2)
    assert beside.conflict == pytest.approx(found.conflict)
    assert batch([unfit, unfit]).near_subjects(conflict=-2.0, progress=silent) == ()
    assert isinstance(dict(batch([unfit]).compute(progress=silent))[0], PromptTooLongError)


def test_a_prompt_that_does_not_fit_fails_alone(batch, monkeypatch):
    monkeypatch.setattr(batches, "already_true", lambda runner, requests, progress: [])

    found = dict(batch([REQUESTS[3], REQUESTS[4]]).compute(progress=silent))

    assert isinstance(found[0], PromptTooLongError)
    assert isinstance(found[1], PatchTensors)


def test_a_batch_can_be_cancelled(batch):
    def cancel(progress):
        if progress.stage == "values":
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        list(batch(REQUESTS[:1]).compute(progress=cancel))
