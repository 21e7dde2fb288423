"""Lenses read what the model's own head reads, and end in the model's own distribution."""

import pytest
import torch

from errata_server.engine.locate.case import Steps
from errata_server.engine.locate.lens import (
    LOGIT_ROW,
    TUNED_ROW,
    LayerReading,
    depth,
    read,
    untranslated,
)
from errata_server.engine.locate.suffix import clean_run
from tests.support import tiny_models
from tests.support.locating import case, located, silent, whole_pass, with_answer

TEXTS = (*tiny_models.PROSE, *tiny_models.sentences())


def readings(asked):
    return read(asked, clean_run(asked, asked.ids), untranslated, Steps(silent, total=9))


def whole_reading(asked, layers):
    """Logits from behind ``layers`` layers, by transformers' own hidden states."""
    model = asked.runner.checkpoint.model
    output = asked.runner.run(
        lambda: model.base_model(
            input_ids=torch.tensor([asked.ids]), output_hidden_states=True, use_cache=False
        )
    )
    if layers == asked.blocks.layers:  # the last one comes normed
        return model.lm_head(output.last_hidden_state)[0]
    norm = asked.blocks.final_norm
    return model.lm_head(norm(output.hidden_states[layers]))[0]


def test_every_layer_is_read_as_the_models_head_would(deep):
    asked = case(deep)

    found = readings(asked)

    assert len(found) == 5
    for layers, reading in enumerate(found):
        scores = whole_reading(asked, layers).log_softmax(dim=-1)
        own = scores[-1, asked.answer_ids[0]]
        assert reading.top_probabilities == pytest.approx(
            scores.exp().max(dim=-1).values.tolist(), abs=1e-4
        )
        assert reading.top == int(scores[-1].argmax())
        assert reading.answer == pytest.approx(float(own), abs=1e-3)
        assert reading.rank == 1 + int((scores[-1] > own).sum())


def test_behind_the_last_layer_it_is_the_models_own_distribution(deep):
    asked = case(deep)

    last = readings(asked)[-1]

    scores = whole_pass(asked).log_softmax(dim=-1)
    assert last.divergence == 0
    assert (last.rank, last.top) == (1, asked.predicted)
    assert last.answer == pytest.approx(float(scores[-1].max()), abs=1e-4)


def test_divergences_are_from_the_models_distribution_to_the_lens(deep):
    asked = case(deep)
    final = whole_pass(asked)[-1].log_softmax(dim=-1)
    early = whole_reading(asked, 1)[-1].log_softmax(dim=-1)

    assert readings(asked)[1].divergence == pytest.approx(
        float((final.exp() * (final - early)).sum()), abs=1e-3
    )


def reading_of(top):
    return LayerReading(top_probabilities=(0.5,), top=top, answer=-1.0, rank=1, divergence=0.0)


@pytest.mark.parametrize(
    ("tops", "layers"), [([7, 7, 7], 0), ([1, 7, 7], 1), ([7, 1, 7], 2), ([7, 7, 1], None)]
)
def test_depth_is_how_many_layers_it_takes_until_a_token_stays_on_top(tops, layers):
    assert depth([reading_of(top) for top in tops], 7) == layers


def test_what_the_model_knows_is_on_top_before_the_last_layer_is_through(trained):
    findings = located(LOGIT_ROW, case(trained))

    depths = findings.figures
    assert 0 < depths["answer_depth"] == depths["prediction_depth"] <= 3
    said = findings.charts[1].columns
    assert said[-1] == f"2: {trained.tokens.piece(case(trained).predicted)!r}"


def test_an_answer_the_model_does_not_give_has_no_depth(trained):
    findings = located(LOGIT_ROW, with_answer(case(trained), "Berlin"))

    assert "answer_depth" not in findings.figures
    assert "no depth" in findings.warnings[-1]


def test_charts_show_both_lenses_and_how_they_do_on_held_out_text(trained):
    findings = located(TUNED_ROW, case(trained, texts=TEXTS), steps=20)

    rank = findings.charts[3]
    judged = findings.charts[-1]
    assert rank.rows == judged.rows == ("tuned lens", "logit lens")
    assert rank.columns == ("embeddings", "0", "1", "2")
    assert judged.columns == ("embeddings", "0", "1")
    assert findings.figures["held_out_kl_tuned"] < findings.figures["held_out_kl_logit"]
