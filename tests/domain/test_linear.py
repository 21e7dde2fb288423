"""The table of linear methods, and what an export is held to."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata_server.domain.checks import CheckKind
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.linear import (
    DEFAULT_METHOD,
    EXPORT_POLICY,
    LINEAR_METHODS,
    ExportMeasurements,
    Protection,
    failed_checks,
    linear_method,
)
from errata_server.domain.patches import Composition

GOOD = ExportMeasurements(
    efficacy=0.95, paraphrase=0.7, neighbourhood_drop=0.03, perplexity_rise=0.2
)


def test_every_row_is_found_by_its_name():
    for name in LINEAR_METHODS:
        assert linear_method(name).name == name


def test_an_unknown_method_is_told_the_known_ones():
    with pytest.raises(InvalidInputError, match="'mend'.*linear, rome") as refusal:
        linear_method("mend")

    assert refusal.value.metadata["field"] == "method"


def test_rome_is_the_one_without_a_ridge_and_only_alphaedit_has_a_null_space():
    assert [row.name for row in LINEAR_METHODS.values() if row.ridge == 0] == ["rome"]
    for row in LINEAR_METHODS.values():
        assert (row.null_share > 0) == (row.protection is Protection.NULL_SPACE)


def test_the_default_needs_no_more_than_a_patch_holds():
    assert DEFAULT_METHOD.protection is Protection.SECOND_MOMENT
    assert DEFAULT_METHOD.layers == 1


@pytest.mark.parametrize(
    ("layers", "edited", "span"),
    [(1, 0, [0]), (1, 5, [5]), (3, 5, [3, 4, 5]), (3, 2, [0, 1, 2]), (3, 0, [0, 1, 2])],
)
def test_a_span_ends_at_the_edited_layer_where_there_is_room_below_it(layers, edited, span):
    assert list(replace(DEFAULT_METHOD, layers=layers).span(edited, 6)) == span


@given(st.integers(1, 12), st.integers(0, 11), st.integers(1, 12))
def test_a_span_has_its_layers_and_no_others(layers, edited, total):
    method = replace(DEFAULT_METHOD, layers=layers)
    if layers > total:
        with pytest.raises(InvalidInputError, match=f"the model has {total}"):
            method.span(edited, total)
        return

    span = method.span(min(edited, total - 1), total)

    assert len(span) == layers
    assert span[0] >= 0
    assert span[-1] < total


def test_measurements_at_the_thresholds_pass():
    assert EXPORT_POLICY.composition is Composition.LINEAR
    assert failed_checks(GOOD, EXPORT_POLICY) == ()


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("efficacy", 0.94, CheckKind.EFFICACY),
        ("paraphrase", 0.66, CheckKind.PARAPHRASE),
        ("neighbourhood_drop", 0.031, CheckKind.NEIGHBOURHOOD),
        ("perplexity_rise", 0.201, CheckKind.CUMULATIVE_PERPLEXITY),
    ],
)
def test_what_is_beyond_its_threshold_or_no_number_fails_its_check_alone(name, value, kind):
    for wrong in (value, math.nan):
        assert failed_checks(replace(GOOD, **{name: wrong}), EXPORT_POLICY) == (kind,)
