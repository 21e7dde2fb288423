"""The inverse that is kept against the one computed afresh."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata_server.domain.errors import InvalidInputError
from errata_server.engine import gram
from errata_server.engine.gram import GramInverse
from errata_server.engine.solve import solve_linear

WIDTH = 12
RIDGE = 0.05
TOLERANCE = 1e-8
"""Of a weight's entry over the largest one; float64, condition numbers up to about 1e4."""

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 4), st.integers(0, 2**16)),
        st.tuples(st.just("remove"), st.integers(1, 4), st.integers(0, 2**16)),
    ),
    min_size=1,
    max_size=25,
)


def drawn(count, seed):
    """(keys, directions): some keys nearly coincide, as those of near subjects do."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    if count > 1:
        keys[1] = keys[0] + 1e-2 * keys[1]
    return keys, keys @ metric()


def metric():
    spread = torch.randn(3 * WIDTH, WIDTH, generator=torch.Generator().manual_seed(9)).double()
    return torch.linalg.inv(spread.T @ spread / len(spread))


def played(steps, kept):
    """What ``kept`` holds after ``steps``, kept here as plain rows."""
    keys = torch.zeros(0, WIDTH, dtype=torch.float64)
    for kind, count, seed in steps:
        if kind == "add":
            more, directions = drawn(count, seed)
            kept.add(more, directions)
            keys = torch.cat([keys, more])
        elif len(keys):
            order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(seed))
            rows = order[:count].tolist()
            kept.remove(rows)
            keys = keys[[row for row in range(len(keys)) if row not in rows]]
    return keys


def naive(keys):
    return np.linalg.inv((keys @ metric() @ keys.T).numpy() + RIDGE * np.eye(len(keys)))


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * max(1, abs(expected).max()))


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_after_any_adds_and_removes_the_inverse_is_the_naive_one(steps):
    kept = GramInverse(WIDTH, RIDGE)

    keys = played(steps, kept)

    assert len(kept) == len(keys)
    if len(keys):
        close(kept.inverse.numpy(), naive(keys))


@settings(max_examples=30, deadline=None)
@given(STEPS, st.integers(0, 2**16))
def test_the_weights_are_those_of_a_fresh_solve_whatever_came_before(steps, seed):
    kept = GramInverse(WIDTH, RIDGE)
    keys = played([*steps, ("add", 2, seed)], kept)
    residuals = torch.randn(len(keys), 5, generator=torch.Generator().manual_seed(seed)).double()

    weights = kept.weights(residuals)

    fresh, directions = solve_linear(keys, keys @ metric(), residuals, RIDGE)
    close((weights @ kept.directions).numpy(), (fresh @ directions).numpy())


def test_taking_out_what_was_put_in_leaves_what_was_there_up_to_rounding():
    kept = GramInverse(WIDTH, RIDGE)
    kept.add(*drawn(3, 1))
    before = kept.inverse.clone()

    kept.add(*drawn(2, 2))
    kept.remove([3, 4])

    close(kept.inverse.numpy(), before.numpy())


def test_an_inverse_is_computed_afresh_every_hundred_changes():
    kept = GramInverse(WIDTH, RIDGE)

    for seed in range(gram.REFRESH - 1):
        kept.add(*drawn(1, seed))
        kept.remove([0]) if seed % 2 else None
    assert kept.refreshes >= 1
    kept = GramInverse(WIDTH, RIDGE)
    for seed in range(gram.REFRESH - 1):
        kept.add(*drawn(1, seed))
    assert kept.refreshes == 0
    kept.add(*drawn(1, 7))

    assert kept.refreshes == 1


def test_an_error_beyond_the_bound_is_mended_at_the_next_change():
    kept = GramInverse(WIDTH, RIDGE)
    keys = played([("add", 4, 1)], kept)
    kept._inverse = kept._inverse + 1e-3
    assert kept.error() > gram.LARGEST_ERROR

    more, directions = drawn(1, 2)
    kept.add(more, directions)

    assert kept.refreshes == 1
    assert kept.error() <= gram.LARGEST_ERROR
    close(kept.inverse.numpy(), naive(torch.cat([keys, more])))


def test_the_error_is_what_is_left_of_the_identity():
    kept = GramInverse(WIDTH, RIDGE)
    keys = played([("add", 3, 1)], kept)
    kept._inverse = kept._inverse * 1.25  # A G - I is then I / 4

    assert kept.error() == pytest.approx(0.25)
    assert len(keys) == 3


def test_a_key_that_is_held_already_is_refused_without_a_ridge_and_nothing_changes():
    kept = GramInverse(WIDTH, 0.0)
    keys, directions = drawn(1, 1)
    kept.add(keys, directions)
    before = kept.inverse.clone()

    with pytest.raises(InvalidInputError, match="apart"):
        kept.add(keys, directions)

    assert len(kept) == 1
    assert torch.equal(kept.inverse, before)


@pytest.mark.parametrize("rows", [[3], [-1], [0, 0]])
def test_only_rows_that_are_held_are_removed(rows):
    kept = GramInverse(WIDTH, RIDGE)
    kept.add(*drawn(3, 1))

    with pytest.raises(InvalidInputError, match="some of the 3 held"):
        kept.remove(rows)

    assert len(kept) == 3


def test_nothing_held_has_no_error():
    kept = GramInverse(WIDTH, RIDGE)

    kept.remove([])

    assert kept.error() == 0
    assert len(kept) == 0
