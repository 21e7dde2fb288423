"""Translators of the tuned lens: better than none on text they have not seen, and seeded."""

import pytest
import torch

from errata_server.domain.errors import CancelledError, InvalidInputError
from errata_server.engine.locate import translators
from errata_server.engine.locate.suffix import clean_run
from errata_server.engine.locate.translators import fit, split
from tests.support import tiny_models
from tests.support.locating import case, silent

TEXTS = (*tiny_models.PROSE, *tiny_models.sentences())


def fitted(asked, updates, progress=silent):
    return fit(asked, updates=updates, progress=progress)


def test_on_held_out_text_they_come_closer_to_the_model_than_the_logit_lens(trained):
    found = fitted(case(trained, texts=TEXTS), 60)

    assert found.held_out_tokens > 50
    for tuned, logit in zip(found.tuned_divergence, found.logit_divergence, strict=True):
        assert tuned < 0.9 * logit


def test_they_work_on_either_family(deep):
    found = fitted(case(deep, texts=TEXTS), 30)

    assert sum(found.tuned_divergence) < sum(found.logit_divergence)


def test_no_text_is_both_trained_on_and_judged_on(gpt2):
    asked = case(gpt2, texts=TEXTS * 2)

    train, held_out = split(asked)

    assert {tuple(row) for row in train}.isdisjoint(tuple(row) for row in held_out)
    assert len(train) + len(held_out) == len(set(TEXTS))
    assert len(held_out) == len(set(TEXTS)) // 5


def test_the_states_behind_the_last_layer_are_left_as_they_are(gpt2):
    asked = case(gpt2, texts=TEXTS)
    states = clean_run(asked, asked.ids).states
    found = fitted(asked, 1)

    assert torch.equal(found.translate(2, states[2]), states[2])
    assert not torch.equal(found.translate(1, states[1]), states[1])


def test_the_same_seed_gives_the_same_translators_and_another_seed_others(gpt2):
    seeds = (3, 3, 4)

    found = []
    for index, seed in enumerate(seeds):
        texts = (*TEXTS, f"text {index}")  # past the memory of earlier calls
        found.append(fitted(case(gpt2, texts=TEXTS, seed=seed), 3))
        fitted(case(gpt2, texts=texts), 1)
        fitted(case(gpt2, texts=(*texts, "another")), 1)

    assert found[0] is not found[1]
    assert torch.equal(found[0].weights, found[1].weights)
    assert not torch.equal(found[0].weights, found[2].weights)


def test_they_are_kept_for_the_same_weights_texts_and_seed(gpt2, deep):
    asked = case(gpt2, texts=TEXTS, seed=9)
    first = fitted(asked, 2)

    reports = []
    assert fitted(asked, 2, reports.append) is first
    assert reports == []
    assert fitted(case(deep, texts=TEXTS, seed=9), 2) is not first


@pytest.mark.parametrize("texts", [(), ("It rained all week.",), ("Rome is open.",) * 5])
def test_too_few_different_texts_are_refused(gpt2, texts):
    with pytest.raises(InvalidInputError, match="at least two") as refused:
        fitted(case(gpt2, texts=texts), 2)

    assert refused.value.metadata["field"] == "texts"


@pytest.mark.parametrize("stage", ["reading texts", "training translators"])
def test_it_can_be_cancelled_at_any_stage(gpt2, stage):
    seen = []

    def cancel(progress):
        seen.append((progress.stage, progress.done))
        if seen[-1] == (stage, 2):
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        fitted(case(gpt2, texts=TEXTS, seed=11), 50, cancel)

    assert seen[-1] == (stage, 2)


def test_no_more_text_is_read_than_there_is_room_for(gpt2, monkeypatch):
    monkeypatch.setattr(translators, "TRAIN_TOKENS", 30)

    train, held_out = split(case(gpt2, texts=TEXTS))

    assert sum(map(len, train)) == 30
    assert sum(map(len, held_out)) > 30
