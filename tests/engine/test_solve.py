"""Closed forms against the naive formulas they stand for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata_server.domain.errors import InvalidInputError
from errata_server.engine.solve import factor_second_moment, match, match_keys, solve_linear

SHAPES = st.tuples(
    st.integers(min_value=1, max_value=6),  # keys
    st.integers(min_value=6, max_value=20),  # d_in
    st.integers(min_value=1, max_value=9),  # d_out
    st.integers(min_value=0, max_value=2**16),  # seed
)


def draw(keys: int, d_in: int, d_out: int, seed: int):
    """(moment, keys, residuals): the moment well conditioned, the keys independent."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(3 * d_in, d_in, generator=generator, dtype=torch.float64)
    moment = spread.T @ spread / len(spread)
    k = torch.randn(keys, d_in, generator=generator, dtype=torch.float64) * 3
    r = torch.randn(keys, d_out, generator=generator, dtype=torch.float64)
    return moment, k, r


@settings(max_examples=25)
@given(SHAPES)
def test_the_factor_is_of_the_moment_with_the_ridge_on_its_diagonal(shape):
    moment, _, _ = draw(*shape)

    factor = factor_second_moment(moment, 0.25)

    ridged = moment.numpy() + 0.25 * np.diag(moment.numpy()).mean() * np.eye(len(moment))
    np.testing.assert_allclose((factor @ factor.T).numpy(), ridged, atol=1e-10)


def test_the_moment_given_is_left_as_it_was():
    moment, _, _ = draw(1, 6, 1, 0)
    before = moment.clone()

    factor_second_moment(moment, 0.5)

    assert torch.equal(moment, before)


@pytest.mark.parametrize(
    "moment",
    [
        torch.zeros(4, 4),
        -torch.eye(4),
        torch.ones(4, 4),
        torch.full((4, 4), float("nan")),
        torch.diag(torch.tensor([1.0, 1.0, 1.0, float("inf")])),
    ],
)
def test_a_moment_that_is_not_positive_definite_is_refused(moment):
    with pytest.raises(InvalidInputError) as refusal:
        factor_second_moment(moment, 0.0)

    assert refusal.value.metadata["field"] == "ridge"


def test_a_ridge_makes_a_moment_of_too_little_text_usable():
    factor = factor_second_moment(torch.ones(4, 4), 0.1)

    assert torch.isfinite(factor).all()


@settings(max_examples=25)
@given(SHAPES)
def test_matchers_are_the_naive_inverse_times_the_key(shape):
    moment, k, _ = draw(*shape)

    matchers, leverages = match_keys(k, factor_second_moment(moment, 0.0))

    inverse = np.linalg.inv(moment.numpy())
    for row, matcher, leverage in zip(k.numpy(), matchers, leverages, strict=True):
        expected = row @ inverse @ row
        np.testing.assert_allclose(float(leverage), expected, rtol=1e-8)
        np.testing.assert_allclose(
            matcher.numpy(), inverse @ row * np.linalg.norm(row) / expected, rtol=1e-6, atol=1e-9
        )


@settings(max_examples=25)
@given(SHAPES)
def test_a_key_matches_itself_with_1_however_strongly_it_is_spoken(shape):
    moment, k, _ = draw(*shape)
    matchers, _ = match_keys(k, factor_second_moment(moment, 0.1))

    for strength in (0.01, 1.0, 250.0):
        own = match(k * strength, matchers).diagonal()
        assert torch.allclose(own, torch.ones_like(own), atol=1e-9)
    assert torch.allclose(match(-k, matchers).diagonal(), -torch.ones(len(k)).double(), atol=1e-9)


def test_an_input_of_no_length_matches_nothing():
    matchers = torch.ones(2, 4)

    assert torch.equal(match(torch.zeros(1, 3, 4), matchers), torch.zeros(1, 3, 2))


@settings(max_examples=25)
@given(SHAPES)
def test_one_edit_without_ridge_is_romes_formula(shape):
    moment, k, r = draw(1, *shape[1:])
    matchers, leverages = match_keys(k, factor_second_moment(moment, 0.0))

    left, right = solve_linear(k, matchers, leverages, r, 0.0)

    u = np.linalg.inv(moment.numpy()) @ k[0].numpy()
    rome = np.outer(r[0].numpy(), u) / (k[0].numpy() @ u)
    np.testing.assert_allclose((left @ right).numpy(), rome, rtol=1e-6, atol=1e-9)


@settings(max_examples=25)
@given(SHAPES)
def test_many_edits_without_ridge_recall_every_residual(shape):
    moment, k, r = draw(*shape)
    matchers, leverages = match_keys(k, factor_second_moment(moment, 0.0))

    left, right = solve_linear(k, matchers, leverages, r, 0.0)

    assert torch.allclose(k @ (left @ right).T, r, atol=1e-6)


@settings(max_examples=25)
@given(SHAPES)
def test_the_joint_solve_is_the_naive_formula_with_its_ridge(shape):
    moment, k, r = draw(*shape)
    matchers, leverages = match_keys(k, factor_second_moment(moment, 0.0))

    left, right = solve_linear(k, matchers, leverages, r, 0.1)

    columns = np.linalg.inv(moment.numpy()) @ k.numpy().T
    gram = k.numpy() @ columns
    naive = r.numpy().T @ np.linalg.inv(gram + 0.1 * np.eye(len(k))) @ columns.T
    np.testing.assert_allclose((left @ right).numpy(), naive, rtol=1e-6, atol=1e-9)


@settings(max_examples=25)
@given(SHAPES)
def test_the_joint_solve_disturbs_ordinary_text_least_of_all_that_recall_as_much(shape):
    moment, k, r = draw(*shape)
    matchers, leverages = match_keys(k, factor_second_moment(moment, 0.0))
    left, right = solve_linear(k, matchers, leverages, r, 0.0)
    change = left @ right
    generator = torch.Generator().manual_seed(shape[3] + 1)
    other = torch.randn(change.shape, generator=generator, dtype=torch.float64)
    blind = other - other @ torch.linalg.pinv(k) @ k  # changes nothing on the keys

    def disturbance(weights):
        return float(torch.trace(weights @ moment @ weights.T))

    assert disturbance(change + 0.1 * blind) >= disturbance(change) - 1e-9
