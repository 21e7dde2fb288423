"""The attributes rate: whose words count, what is taken away, and what the updates say."""

from contextlib import ExitStack
from functools import partial

import pytest
import torch

from errata_server.engine.locate.attributes import ROW, subject_vocabulary
from tests.support.locating import (
    KNOWN_CITIES,
    attentions,
    case,
    located,
    mlps,
    outputs_changed,
    whole_pass,
)

TEXTS = (
    "The Eiffel Tower is an iron monument, and visitors climb it.",
    "The Louvre is a museum of paintings.",
    "Iron rusts.",
)
WINDOWS = [(0, 1), (0, 2), (1, 3), (2, 4)]
"""Around each of four layers, two wide."""


def words_of_the_tower(runner, **changes):
    asked = case(runner, texts=TEXTS, known_facts=KNOWN_CITIES, **changes)
    return subject_vocabulary(asked)


def whole_rate(asked, vocabulary, state, k):
    blocks = asked.blocks
    top = asked.step(lambda: blocks.logits(state)).topk(k).indices.tolist()
    return sum(token in vocabulary.tokens for token in top) / k


def hidden_state(asked, layer):
    """The state at the subject's last token behind ``layer``, by transformers' own pass."""
    blocks = asked.runner.checkpoint.model.base_model
    module = blocks.h[layer] if "h" in dict(blocks.named_children()) else blocks.layers[layer]
    seen = []

    def keep(output):
        seen.append(output[0, asked.subject_end])
        return output

    with outputs_changed(module, keep):
        whole_pass(asked)
    return seen[0]


def test_words_are_those_of_texts_that_name_the_subject_and_of_its_known_objects(gpt2):
    found = words_of_the_tower(gpt2)

    assert found.words == {"iron", "monument", "visitors", "climb", "Paris"}
    assert found.texts == 1


def test_words_of_the_prompt_do_not_count(gpt2):
    found = words_of_the_tower(gpt2, prompt="The iron Eiffel Tower is in")

    assert "iron" not in found.words
    assert found.tokens.isdisjoint(case(gpt2).ids)


def test_tokens_too_short_to_tell_words_apart_do_not_count(gpt2):
    found = words_of_the_tower(gpt2)

    pieces = [gpt2.tokens.decode([token]).strip() for token in found.tokens]
    assert pieces
    assert all(len(piece) >= 3 for piece in pieces)


def some_words(runner):
    """Texts that make the rate of a random model something other than nothing."""
    pieces = {runner.tokens.decode([token]).strip() for token in range(260, 500)}
    return ("Eiffel Tower " + " ".join(sorted(piece for piece in pieces if piece.isalpha())),)


def test_rates_and_what_they_lose_equal_whole_passes(deep):
    asked = case(deep, texts=some_words(deep))
    vocabulary = subject_vocabulary(asked)
    subject = torch.tensor(asked.subject_positions)

    def gone(output):
        return output.index_fill(1, subject, 0)

    findings = located(ROW, asked, k=20)

    rates, losses, _ = findings.charts
    assert rates.values[0][1:] == pytest.approx(
        [whole_rate(asked, vocabulary, hidden_state(asked, at), 20) for at in range(4)]
    )
    peak = int(findings.figures["attributes_rate_layer"])
    by_layer = [rate or 0.0 for rate in rates.values[0][1:]]
    assert by_layer[peak] == max(by_layer) > 0
    for name, modules in (("without attention", attentions(deep)), ("without MLP", mlps(deep))):
        found = losses.values[losses.rows.index(name)]
        for (first, end), rate in zip(WINDOWS, found, strict=True):
            if first > peak:
                assert rate is None
                continue
            with ExitStack() as stack:
                for module in modules[first:end]:
                    stack.enter_context(outputs_changed(module, gone))
                state = hidden_state(asked, peak)
            assert rate == pytest.approx(whole_rate(asked, vocabulary, state, 20))


def test_the_rank_of_the_answer_in_each_update_equals_a_whole_passes(deep):
    asked = case(deep)

    ranks = located(ROW, asked).charts[2]

    for name, modules in (("attention", attentions(deep)), ("MLP", mlps(deep))):
        for layer, module in enumerate(modules):
            seen = []

            def keep(output, seen=seen):
                seen.append(output[0, -1])
                return output

            with outputs_changed(module, keep):
                whole_pass(asked)
            logits = asked.step(partial(asked.blocks.logits, seen[0]))
            rank = 1 + int((logits > logits[asked.answer_ids[0]]).sum())
            assert ranks.values[ranks.rows.index(name)][layer] == rank


def test_the_extraction_rate_is_the_share_of_updates_with_the_answer_on_top(trained):
    findings = located(ROW, case(trained, texts=TEXTS, known_facts=KNOWN_CITIES))

    ranks = dict(zip(findings.charts[2].rows, findings.charts[2].values, strict=True))
    for name, key in (("attention", "attention"), ("MLP", "mlp")):
        on_top = sum(rank == 1 for rank in ranks[name])
        assert findings.figures[f"{key}_extraction_rate"] == pytest.approx(on_top / 3)
    assert findings.figures["mlp_extraction_rate"] > 0


def test_without_words_there_is_no_rate_and_a_warning(gpt2):
    findings = located(ROW, case(gpt2))

    assert set(findings.charts[0].values[0]) == {None}
    assert "attributes_rate" not in findings.figures
    assert "0 words of the subject's own are known, from 0 texts" in findings.warnings[0]


def test_few_words_are_said_to_be_few(gpt2):
    findings = located(ROW, case(gpt2, texts=TEXTS))

    assert "only 4 words" in findings.warnings[0]
    assert findings.figures["subject_words"] == 4
