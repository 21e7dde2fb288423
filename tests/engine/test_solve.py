"""Closed forms against the naive formulas they stand for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata_server.domain.errors import InvalidInputError
from errata_server.engine.solve import (
    directions_of,
    disturbance,
    factor_second_moment,
    match,
    match_keys,
    null_space,
    solve_linear,
)

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


def directions(moment, k):
    return torch.cholesky_solve(k.T, factor_second_moment(moment, 0.0)).T


@settings(max_examples=25)
@given(SHAPES)
def test_directions_come_back_from_matchers_and_leverages(shape):
    moment, k, _ = draw(*shape)

    found = directions_of(k, *match_keys(k, factor_second_moment(moment, 0.0)))

    np.testing.assert_allclose(found.numpy(), k.numpy() @ np.linalg.inv(moment.numpy()), atol=1e-9)


@settings(max_examples=25)
@given(SHAPES)
def test_one_edit_without_ridge_is_romes_formula(shape):
    moment, k, r = draw(1, *shape[1:])

    left, right = solve_linear(k, directions(moment, k), r, 0.0)

    u = np.linalg.inv(moment.numpy()) @ k[0].numpy()
    rome = np.outer(r[0].numpy(), u) / (k[0].numpy() @ u)
    np.testing.assert_allclose((left @ right).numpy(), rome, rtol=1e-6, atol=1e-9)


@settings(max_examples=25)
@given(SHAPES)
def test_many_edits_without_ridge_recall_every_residual(shape):
    moment, k, r = draw(*shape)

    left, right = solve_linear(k, directions(moment, k), r, 0.0)

    assert torch.allclose(k @ (left @ right).T, r, atol=1e-6)


@settings(max_examples=25)
@given(SHAPES)
def test_the_joint_solve_is_the_naive_formula_with_its_ridge(shape):
    moment, k, r = draw(*shape)

    left, right = solve_linear(k, directions(moment, k), r, 0.1)

    columns = np.linalg.inv(moment.numpy()) @ k.numpy().T
    gram = k.numpy() @ columns
    naive = r.numpy().T @ np.linalg.inv(gram + 0.1 * np.eye(len(k))) @ columns.T
    np.testing.assert_allclose((left @ right).numpy(), naive, rtol=1e-6, atol=1e-9)


@settings(max_examples=25)
@given(SHAPES, st.floats(min_value=1e-3, max_value=1e3))
def test_the_joint_solve_is_memits_normal_equations(shape, ridge):
    moment, k, r = draw(*shape)

    left, right = solve_linear(k, directions(moment, k), r, ridge)

    # (lambda C + K K^T) D^T = K R^T, arXiv:2210.07229, eq. 14
    columns, residuals = k.numpy().T, r.numpy().T
    normal = np.linalg.solve(ridge * moment.numpy() + columns @ columns.T, columns @ residuals.T)
    np.testing.assert_allclose((left @ right).numpy(), normal.T, rtol=1e-6, atol=1e-9)


@settings(max_examples=25)
@given(SHAPES, st.floats(min_value=1e-3, max_value=1e3))
def test_in_the_null_space_the_joint_solve_is_alphaedits_formula(shape, ridge):
    moment, k, r = draw(*shape)
    projector = null_space(moment, 1.0)

    left, right = solve_linear(k, k @ projector, r, ridge)

    # (P K K^T + lambda I) D^T = P K R^T, arXiv:2410.02355, eq. 14
    p, columns = projector.numpy(), k.numpy().T
    normal = np.linalg.solve(
        p @ columns @ columns.T + ridge * np.eye(len(p)), p @ columns @ r.numpy()
    )
    np.testing.assert_allclose((left @ right).numpy(), normal.T, rtol=1e-6, atol=1e-9)


@settings(max_examples=25)
@given(SHAPES)
def test_the_projector_is_symmetric_idempotent_and_blind_to_what_ordinary_keys_use(shape):
    moment, _, _ = draw(*shape)

    projector = null_space(moment, 1.0)

    values, vectors = np.linalg.eigh(moment.numpy())
    used = values >= values.mean()
    p = projector.numpy()
    np.testing.assert_allclose(p, p.T, atol=1e-12)
    np.testing.assert_allclose(p @ p, p, atol=1e-12)
    np.testing.assert_allclose(p @ vectors[:, used], 0, atol=1e-12)
    np.testing.assert_allclose(p @ vectors[:, ~used], vectors[:, ~used], atol=1e-12)


def test_the_null_space_is_the_same_however_large_the_keys_are():
    moment, _, _ = draw(1, 12, 1, 3)

    assert torch.allclose(null_space(moment * 1e6, 0.5), null_space(moment, 0.5), atol=1e-9)


def test_a_moment_without_unused_directions_has_no_null_space():
    with pytest.raises(InvalidInputError, match="no null space") as refusal:
        null_space(torch.eye(4), 0.5)

    assert refusal.value.metadata["field"] == "null_share"


def test_keys_that_are_the_same_are_refused_without_a_ridge_and_share_with_one():
    key, values = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [3.0]])
    twice = key.repeat(2, 1)

    with pytest.raises(InvalidInputError, match="do not tell their values apart") as refusal:
        solve_linear(twice, twice, values, 0.0)
    left, right = solve_linear(twice, twice, values, 1e-6)

    assert refusal.value.metadata["field"] == "ridge"
    assert float(left @ right @ key[0].double()) == pytest.approx(2.0, rel=1e-5)


@settings(max_examples=25)
@given(SHAPES)
def test_the_joint_solve_disturbs_ordinary_text_least_of_all_that_recall_as_much(shape):
    moment, k, r = draw(*shape)
    left, right = solve_linear(k, directions(moment, k), r, 0.0)
    change = left @ right
    generator = torch.Generator().manual_seed(shape[3] + 1)
    other = torch.randn(change.shape, generator=generator, dtype=torch.float64)
    blind = other - other @ torch.linalg.pinv(k) @ k  # changes nothing on the keys
    worse = change + 0.1 * blind

    assert disturbance(left, right, moment) == pytest.approx(
        float(torch.trace(change @ moment @ change.T)), rel=1e-6
    )
    assert float(torch.trace(worse @ moment @ worse.T)) >= disturbance(left, right, moment) - 1e-9
