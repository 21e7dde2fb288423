"""Attention knockout equals whole passes with the attention mask edited."""

import pytest
import torch

from errata_server.engine.locate.knockout import ROW
from errata_server.engine.locate.suffix import POSITIONS
from tests.support.locating import (
    answer_probability,
    attentions,
    case,
    located,
    masked,
)

WINDOWS = {1: [(0, 1), (1, 2), (2, 3), (3, 4)], 2: [(0, 1), (0, 2), (1, 3), (2, 4)]}


def blocked_sets(asked):
    last = len(asked.ids) - 1
    subject = [at for at in asked.subject_positions if at < last]
    return {
        "subject": subject,
        "other tokens": [at for at in range(last) if at not in subject],
        "last token": list(range(last, last + len(asked.answer_ids))),
    }


def whole_change(asked, blocked, first, end):
    tokens = len(asked.ids) + len(asked.answer_ids) - 1
    allowed = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    readers = torch.arange(len(asked.ids) - 1, tokens)
    allowed[readers[:, None], torch.tensor(blocked)] = False
    with masked(attentions(asked.runner)[first:end], allowed):
        blocked_probability = answer_probability(asked)
    return blocked_probability / answer_probability(asked) - 1


@pytest.mark.parametrize("answer", ["", "Seattle Paris"])
def test_every_cell_equals_a_whole_pass_with_the_mask_edited(deep, answer):
    asked = case(deep, answer=answer)
    assert len(asked.answer_ids) == 1 if not answer else len(asked.answer_ids) > 1

    charts = located(ROW, asked, window=2).charts

    for chart, windows in zip(charts, (WINDOWS[2], WINDOWS[1]), strict=True):
        for name, changes in zip(chart.rows, chart.values, strict=True):
            for change, (first, end) in zip(changes, windows, strict=True):
                whole = whole_change(asked, blocked_sets(asked)[name], first, end)
                assert change == pytest.approx(whole, abs=1e-4)
                assert abs(whole) > 1e-5


def test_cells_that_walk_in_small_groups_are_the_same(deep, monkeypatch):
    asked = case(deep)
    together = located(ROW, asked)

    monkeypatch.setattr("errata_server.engine.locate.suffix.POSITIONS", 3 * len(asked.ids))
    apart = located(ROW, asked)

    assert 3 * len(asked.ids) < POSITIONS
    for one, other in zip(together.charts, apart.charts, strict=True):
        for left, right in zip(one.values, other.values, strict=True):
            assert left == pytest.approx(right, abs=1e-5)


def test_a_revisions_edits_act(deep, a_patched_bank):
    question = {"prompt": "Big Ben is in the city of", "subject": "Big Ben", "answer": "Rome"}
    as_loaded = located(ROW, case(deep, **question)).figures["probability"]

    edited = case(deep, **question, bank=a_patched_bank)
    figures = located(ROW, edited).figures

    assert figures["probability"] == pytest.approx(answer_probability(edited), rel=1e-3)
    assert figures["probability"] != pytest.approx(as_loaded, rel=0.1)


def test_a_window_wider_than_half_the_model_is_narrowed_and_said(deep):
    findings = located(ROW, case(deep), window=9)

    assert findings.figures["window"] == 2
    assert "2 are blocked together" in findings.warnings[0]
    titles = [chart.title for chart in findings.charts]
    assert "2 layers" in titles[0]
    assert "each single layer" in titles[1]


def test_a_prompt_that_ends_with_its_subject_has_what_is_left_of_it_blocked(gpt2):
    findings = located(ROW, case(gpt2, prompt="Big Ben", subject="Big Ben"))

    assert "other tokens" not in findings.charts[0].rows
    assert any("'other tokens'" in warning for warning in findings.warnings)


def test_a_prompt_of_one_token_has_nothing_to_block(gpt2):
    findings = located(ROW, case(gpt2, prompt="a", subject="a"))

    assert findings.charts[0].rows == ()
    assert len([warning for warning in findings.warnings if "nothing to block" in warning]) == 3
