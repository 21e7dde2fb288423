"""Granger tests find what was planted, refuse what cannot be tested, and say what is wrong."""

import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from errata_server.domain.errors import CancelledError, InvalidInputError
from errata_server.engine.locate.case import Steps
from errata_server.engine.locate.granger import (
    ROW,
    bivariate,
    every_pair,
    leading_components,
    vector,
)
from tests.support import tiny_models
from tests.support.locating import case, located, silent

TEXTS = (*tiny_models.PROSE, *tiny_models.sentences())
TESTS = pytest.mark.parametrize("test", [bivariate, vector])


def planted(*, length=300, width=2):
    """A series, and one that follows it a step later."""
    chance = np.random.default_rng(5)
    cause = chance.normal(size=(length, width))
    effect = chance.normal(size=(length, width))
    effect[1:] += 0.8 * cause[:-1]
    return cause, effect


@TESTS
def test_a_series_that_follows_another_is_predicted_by_it_and_not_the_other_way(test):
    cause, effect = planted()

    assert test(effect, cause, 1).p_value < 1e-6
    assert test(cause, effect, 1).p_value > 0.05


def test_the_bivariate_test_is_the_textbooks_f_test():
    cause, effect = planted()
    now, past, other = effect[1:, 0], effect[:-1, 0], cause[:-1, 0]

    def residual(*columns):
        design = np.column_stack([np.ones(len(now)), *columns])
        return float(np.linalg.lstsq(design, now, rcond=None)[1][0])

    alone, both = residual(past), residual(past, other)
    assert bivariate(effect, cause, 1).statistic == pytest.approx(
        (alone - both) / (both / (len(now) - 3))
    )


@TESTS
def test_constant_and_collinear_series_are_left_out_without_a_warning(test):
    cause, effect = planted()
    series = [cause, effect, np.ones_like(cause), cause]

    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        verdicts = every_pair(series, test, 1, Steps(silent, total=4))

    assert set(verdicts) == {(0, 1), (1, 0), (1, 3), (3, 1)}
    assert leaked == []


def test_components_are_the_leading_directions_of_variance():
    chance = torch.Generator().manual_seed(0)
    scores = torch.randn(50, 2, generator=chance, dtype=torch.float64)
    scores -= scores.mean(dim=0)
    axes, _ = torch.linalg.qr(torch.randn(6, 2, generator=chance, dtype=torch.float64))
    left, _, _ = torch.linalg.svd(scores, full_matrices=False)
    states = (left * torch.tensor([9.0, 2.0])) @ axes.T + 3.0

    found = leading_components(states, 3)

    assert np.abs(found[:, :2]) == pytest.approx(np.abs(left.numpy()) * 50**0.5, abs=1e-9)
    assert (found[:, 2] == 0).all()


def test_the_first_tokens_states_are_left_out_and_the_text_is_cut_to_the_context(gpt2):
    figures = located(ROW, case(gpt2, texts=TEXTS)).figures

    assert figures["positions"] == tiny_models.CONTEXT - 1


def test_every_ordered_pair_is_tested_and_counted_by_its_direction(deep):
    findings = located(ROW, case(deep, texts=TEXTS), lags=1)

    bivariate_p, bivariate_f, vector_p, _ = findings.charts
    figures = findings.figures
    assert figures["pairs_each_way"] == 6
    for chart, prefix in ((bivariate_p, ""), (vector_p, "vector_")):
        strong = [
            (cause, effect)
            for cause, row in enumerate(chart.values)
            for effect, value in enumerate(row)
            if value is not None and value > -np.log10(0.05)
        ]
        upward = sum(cause < effect for cause, effect in strong)
        assert figures[f"{prefix}significant_upward"] == upward
        assert figures[f"{prefix}significant_downward"] == len(strong) - upward
        assert figures[f"{prefix}share_significant"] == pytest.approx(len(strong) / 12)
    for at, row in enumerate(bivariate_f.values):
        assert [column for column, value in enumerate(row) if value is None] == [at]


def test_p_values_are_corrected_for_the_number_of_pairs(deep):
    findings = located(ROW, case(deep, texts=TEXTS))
    corrected = [value for row in findings.charts[0].values for value in row if value is not None]
    statistics = [value for row in findings.charts[1].values for value in row if value is not None]

    raw = np.array([stats.f.sf(value, 1, tiny_models.CONTEXT - 1 - 1 - 3) for value in statistics])
    order = np.argsort(raw)
    adjusted = np.minimum.accumulate((raw[order] * 12 / np.arange(1, 13))[::-1])[::-1]
    expected = np.empty(12)
    expected[order] = np.minimum(adjusted, 1)
    assert corrected == pytest.approx((-np.log10(expected)).tolist(), rel=1e-3)


def test_the_result_says_what_its_series_are_and_that_they_prove_nothing(gpt2):
    said = located(ROW, case(gpt2, texts=TEXTS)).warnings[0]

    assert "95 token positions of the prompt followed by the texts" in said
    assert "cannot be causal" in said
    assert "not interventional" in ROW.locator.cannot_show


def test_too_short_a_running_text_is_refused(gpt2):
    with pytest.raises(InvalidInputError, match="give more texts"):
        located(ROW, case(gpt2))


def test_it_can_be_cancelled_between_tests():
    cause, effect = planted()

    def cancel(_):
        raise CancelledError("enough")

    with pytest.raises(CancelledError):
        every_pair([cause, effect], bivariate, 1, Steps(cancel, total=2))
