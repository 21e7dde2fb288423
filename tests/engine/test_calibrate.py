"""Calibration on a tiny model that knows a dozen facts: what it asks, picks and refuses."""

import random
from dataclasses import replace

import pytest
import torch

from errata_server.domain.errors import CancelledError, NotCalibratedError
from errata_server.domain.known_facts import KnownFact, KnownFacts
from errata_server.domain.operations import Progress
from errata_server.engine import calibrate as calibration
from errata_server.engine import values
from errata_server.engine.calibrate import Outcome, calibrate, choose_prefixes, find_known
from errata_server.engine.keys import Name, keys_of_names
from errata_server.engine.moments import collect, corpus_digest
from errata_server.engine.solve import factor_second_moment, match, match_keys
from tests.support import tiny_models

RATES = (0.3, 0.5)
CLAMPS = (5.0, 5.0, 20.0)
TEXTS = (*tiny_models.PROSE, *tiny_models.sentences())
KNOWN = KnownFacts(
    templates={"city": tiny_models.TEMPLATES},
    facts=tuple(
        KnownFact(subject=subject, relation="city", object=city)
        for subject, city in tiny_models.CITIES.items()
    ),
)


def silent(_):
    """Progress nobody follows."""


@pytest.fixture(scope="module")
def small():
    """A sweep of a few edits; the tiny model knows a dozen facts and no more."""
    with pytest.MonkeyPatch.context() as patching:
        for name, value in {
            "MINIMUM_KNOWN": 8,
            "LAYER_TRIALS": 2,
            "STEP_TRIALS": 1,
            "LEARNING_RATES": RATES,
            "CLAMPS": CLAMPS,
        }.items():
            patching.setattr(calibration, name, value)
        patching.setattr(values, "STEP_SIZES", (1.0,))
        yield


@pytest.fixture(scope="module")
def cache(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("moments")
    collect(trained, TEXTS, [0, 1], cache=folder, progress=silent)
    return folder


def run(runner, cache, known=KNOWN, *, texts=TEXTS, seed=1, progress=silent):
    return calibrate(runner, known, texts, cache=cache, seed=seed, progress=progress)


@pytest.fixture(scope="module")
def calibrated(trained, cache, small):
    """(profile, progress seen on the way to it)"""
    seen: list[Progress] = []
    return run(trained, cache, progress=seen.append), seen


def test_a_profile_names_a_place_of_this_model_and_the_evidence_for_it(trained, calibrated):
    profile, _ = calibrated

    description = trained.checkpoint.description
    assert profile.model_digest == description.digest
    assert profile.layer in {0, 1}  # the last layer is not tried
    assert profile.module == trained.checkpoint.projection_path(profile.layer)
    assert (profile.d_in, profile.d_out) == (description.d_in, description.d_model)
    assert profile.moment_corpus == corpus_digest(TEXTS)
    assert profile.moment_tokens == sum(len(trained.tokens.encode(text)) for text in TEXTS)
    assert calibration.WIDTHS[0] <= profile.guard_width <= calibration.WIDTHS[1]
    assert profile.learning_rate in RATES
    assert profile.clamp in CLAMPS
    assert profile.mean_value_norm > 0
    layers = [row for row in profile.evidence if "layer" in row]
    assert [row["layer"] for row in layers] == [0.0, 1.0]
    chosen = layers[profile.layer]
    assert chosen["guard_width"] == profile.guard_width
    assert chosen["score"] > 0
    tried = {(row["learning_rate"], row["clamp"]) for row in profile.evidence if "clamp" in row}
    assert (profile.learning_rate, profile.clamp) in tried


def test_progress_never_goes_back_nor_beyond_its_total(calibrated):
    _, seen = calibrated

    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert all(p.done <= p.total for p in seen)


def test_the_same_seed_gives_the_same_profile(trained, cache, small, calibrated):
    assert run(trained, cache).id == calibrated[0].id


def test_facts_the_model_does_not_hold_are_left_out(trained, monkeypatch):
    monkeypatch.setattr(calibration, "MINIMUM_KNOWN", 1)
    wrong = KnownFact(subject="Louvre", relation="city", object="Oslo")
    facts = replace(KNOWN, facts=(*KNOWN.facts, wrong))

    known = find_known(trained, facts, random.Random(0))

    assert wrong not in known
    assert len(known) >= 10


def test_a_model_that_knows_too_little_is_refused(gpt2, tmp_path):
    with pytest.raises(NotCalibratedError) as refusal:
        run(gpt2, tmp_path)

    assert refusal.value.metadata["needed"] == str(calibration.MINIMUM_KNOWN)
    assert refusal.value.metadata["asked"] == "12"


def test_calibration_without_text_is_refused(trained, tmp_path):
    with pytest.raises(NotCalibratedError, match="text"):
        run(trained, tmp_path, texts=())


def test_facts_that_leave_nothing_to_edit_to_are_refused(trained, cache, small, monkeypatch):
    monkeypatch.setattr(calibration, "MINIMUM_KNOWN", 2)
    only_rome = tuple(fact for fact in KNOWN.facts if fact.object == "Rome")

    with pytest.raises(NotCalibratedError):
        run(trained, cache, replace(KNOWN, facts=only_rome))


def test_a_calibration_can_be_cancelled_within_an_edit(trained, cache, small):
    calls = []

    def cancel(progress):
        calls.append(progress)
        if progress.note.startswith("target probability"):
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        run(trained, cache, progress=cancel)

    assert calls


def test_prefixes_are_short_sentences_of_the_texts_behind_the_empty_one():
    texts = ["One two three. Four.", "Alone", "a " * 30, "Five six.", "Five six. Seven."]

    prefixes = choose_prefixes(texts, random.Random(0))

    assert prefixes[0] == ""
    assert set(prefixes[1:]) == {"One two three.", "Five six."}
    assert choose_prefixes(texts, random.Random(0)) == prefixes


def test_the_guard_is_as_wide_as_keeps_the_quiet_share_off_ordinary_keys(
    trained, cache, monkeypatch
):
    moment = collect(trained, TEXTS, [0], cache=cache, progress=silent)[0]
    profile = tiny_models.tiny_profile(trained, layer=0)
    factor = factor_second_moment(moment.mean(), profile.ridge)
    work = calibration._Calibration(
        runner=trained,
        known_facts=KNOWN,
        known=list(KNOWN.facts),
        prefixes=profile.prefixes,
        texts=TEXTS,
        by_layer={0: moment},
        seed=0,
        stages=calibration._Stages(silent, 1),
        evidence=[],
    )
    monkeypatch.setattr(calibration, "WIDTHS", (0.0, 2.0))

    def quiet(width):
        """Guards of ``width`` that fire on no ordinary key."""
        count = 0
        for fact in KNOWN.facts:
            (found,) = keys_of_names(trained, [Name(text=fact.subject)], profile, factor)
            absent = [fact.subject not in TEXTS[int(i)] for i in moment.sample_texts]
            sample = moment.sample[torch.tensor(absent)]
            matches = match(sample, match_keys(found.keys, factor)[0].float())
            count += float(matches.max()) <= 1 - width
        return count

    for share in (0.25, 0.5, 1.0):
        monkeypatch.setattr(calibration, "QUIET", share)
        width, _ = calibration.guard_width(work, profile, factor)
        few = share * len(KNOWN.facts)
        assert quiet(width - 1e-6) >= int(few)
        assert quiet(width + 0.3) < len(KNOWN.facts)


def test_a_setting_that_fails_at_anything_scores_nothing():
    good = Outcome(
        converged=1.0, efficacy=1.0, paraphrase=0.5, neighbourhood=1.0, steps=1.0, residual_norm=1.0
    )

    assert good.score == pytest.approx(0.75)
    assert replace(good, neighbourhood=0.0).score == 0.0
