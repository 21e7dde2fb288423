"""Bounds over few samples, against scipy's."""

import pytest
from scipy.stats import t

import errata
from errata._intervals import half_width, t_quantile


@pytest.mark.parametrize("probability", [0.75, 0.95, 0.975, 0.995, 0.9995])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 30, 999])
def test_quantiles_are_those_of_students_t(probability, freedom):
    exact = t.ppf(probability, freedom)

    assert t_quantile(probability, freedom) == pytest.approx(exact, rel=1e-5)


def test_ten_samples_reach_as_far_as_the_table_says():
    assert half_width(0.5, 10, 0.95) == pytest.approx(0.5 * 2.262157)


def test_one_sample_says_nothing_of_its_spread():
    assert half_width(0.0, 1, 0.95) is None


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_is_a_share(confidence):
    with pytest.raises(errata.InvalidInputError, match="between 0 and 1"):
        half_width(1.0, 10, confidence)
