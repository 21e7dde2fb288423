"""The search for the most edits a weight change bears, on curves and on a small model."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.capacity import (
    FIRST,
    Bearing,
    Capacity,
    Moving,
    Trial,
    document_of,
    methods_of,
    search,
    sets_of,
)
from benchmarks.editing.judging import Judge
from benchmarks.editing.methods import linear_edits, weight_changes
from errata_server.domain.checks import CheckKind
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.linear import LINEAR_METHODS, ExportMeasurements
from tests.benchmarks.test_methods import case

LINEAR = LINEAR_METHODS["linear"]


@given(st.integers(0, 400), st.integers(1, 400))
def test_on_a_curve_that_ends_once_the_search_finds_where(limit, most):
    found = search(lambda edits: edits <= limit, most, resolution=0)

    assert found.edits == min(limit, most)
    assert found.bounded == (limit < most)
    assert max(found.tried) <= most
    assert len(set(found.tried)) == len(found.tried)


@given(st.integers(1, 400), st.floats(0, 0.5))
def test_a_coarser_search_is_off_by_its_resolution_at_most(limit, resolution):
    found = search(lambda edits: edits <= limit, 400, resolution=resolution)

    assert found.edits <= limit <= found.edits + max(1, resolution * found.edits)


def test_one_failure_on_the_way_up_does_not_end_the_search():
    found = search(lambda edits: edits <= 50 and edits != 2 * FIRST, 400, resolution=0)

    assert found.edits == 50


def test_few_numbers_are_tried():
    found = search(lambda edits: edits <= 50, 300, resolution=0.1)

    assert found == Capacity(edits=48, tried=(8, 16, 32, 64, 128, 48, 56, 52), bounded=True)


CASES = (
    case(),
    case("Big Ben", "London", "Madrid"),
    case("Prado", "Madrid", "Berlin"),
)


def bearing(bench) -> Bearing:
    return Bearing(
        bench=bench,
        cases=CASES,
        judge=Judge(bench, CASES),
        judged=0,
        seed=0,
        resolution=0.1,
    )


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 100))
def test_sets_hold_the_judged_edits_and_never_share_one(edits, made, judged):
    made = min(made, edits)

    sets = sets_of(edits, made, judged)

    places = [place for those in sets for place in those]
    assert all(len(those) == made for those in sets)
    assert len(set(places)) == len(places)
    assert max(places) < edits
    assert len(places) >= judged or len(places) + made > edits
    assert len(sets) == 1 or len(places) - made < (judged or edits)


def test_a_change_that_is_kept_while_edits_come_and_go_is_the_fresh_one(bench):
    edits = linear_edits(bench, LINEAR, CASES)
    moving = Moving(bench, LINEAR, edits)

    for made in (range(1), range(3), range(1, 2), range(1, 3), range(2)):
        (kept,) = moving.changes(made)
        (fresh,) = weight_changes(bench, LINEAR, edits[made.start : made.stop])
        assert kept.module == fresh.module
        difference = kept.left @ kept.right - fresh.left @ fresh.right
        assert float(difference.abs().max()) < 1e-9


def test_small_sets_are_judged_together_and_the_worst_perplexity_stands(bench):
    asking = replace(bearing(bench), judged=3)
    edits = linear_edits(bench, LINEAR, CASES)

    trial = asking._try(Moving(bench, LINEAR, edits).changes, CASES, 1)

    alone = [
        replace(asking, judged=1)._try(Moving(bench, LINEAR, [edit]).changes, [of], 1)
        for edit, of in zip(edits, CASES, strict=True)
    ]
    assert trial.measured.efficacy == sum(one.measured.efficacy for one in alone) / 3
    assert trial.measured.perplexity_rise == max(one.measured.perplexity_rise for one in alone)
    assert trial.disturbance == pytest.approx(max(one.disturbance for one in alone))


def test_the_model_is_asked_at_each_number_and_the_checks_decide(bench):
    asking = bearing(bench)

    found = asking.find("linear", LINEAR)
    document = document_of([("linear", found)], asking, {"most": 3})

    (trial,) = asking.trials["linear"][:1]
    assert trial.edits == 3
    assert trial.measured.efficacy == 1
    assert (found.edits == 3) == (not trial.failed)
    assert trial.disturbance > 0
    assert document.figures == {"capacity_linear": found.edits}
    assert json.loads(json.dumps(document.content, allow_nan=False))["details"]["trials"]


def test_edits_that_cannot_be_told_apart_fail_every_check(bench):
    asking = replace(bearing(bench), cases=(CASES[0], CASES[0]))

    found = asking.find("rome", LINEAR_METHODS["rome"])

    trial = asking.trials["rome"][0]
    assert trial.edits == 2
    assert set(trial.failed) >= {CheckKind.EFFICACY, CheckKind.NEIGHBOURHOOD}
    assert set(trial.row) == {"edits", "failed"}
    assert found.bounded


def test_a_row_leaves_out_what_is_no_number():
    measured = ExportMeasurements(
        efficacy=1, paraphrase=0.5, neighbourhood_drop=0.25, perplexity_rise=math.nan
    )
    trial = Trial(
        edits=4, measured=measured, disturbance=0.5, failed=(CheckKind.CUMULATIVE_PERPLEXITY,)
    )

    assert trial.row == {
        "edits": 4,
        "efficacy": 100,
        "paraphrase": 50,
        "neighbourhood_drop": 25,
        "disturbance": 0.5,
        "failed": ["cumulative_perplexity"],
    }


def test_all_methods_are_all_rows_and_a_ridge_replaces_theirs():
    assert [name for name, _ in methods_of("all", "")] == list(LINEAR_METHODS)
    assert [(name, row.ridge) for name, row in methods_of("rome,memit", "0, 0.5")] == [
        ("rome, ridge 0", 0),
        ("rome, ridge 0.5", 0.5),
        ("memit, ridge 0", 0),
        ("memit, ridge 0.5", 0.5),
    ]


def test_layers_replace_the_rows():
    found = dict(methods_of("linear,alphaedit", "", 1)) | dict(methods_of("alphaedit", "0.03", 1))

    assert {name: (row.layers, row.ridge) for name, row in found.items()} == {
        "linear, layers 1": (1, LINEAR_METHODS["linear"].ridge),
        "alphaedit, layers 1": (1, LINEAR_METHODS["alphaedit"].ridge),
        "alphaedit, layers 1, ridge 0.03": (1, 0.03),
    }


@pytest.mark.parametrize(
    ("names", "ridges"), [("mend", ""), ("rome", "small"), ("rome", "-1"), ("rome", "inf")]
)
def test_senseless_methods_and_ridges_are_refused(names, ridges):
    with pytest.raises(InvalidInputError):
        list(methods_of(names, ridges))


def test_a_workbench_at_another_layer_has_that_layers_profile_and_second_moment(bench):
    there = bench.at(1)

    assert bench.at(0).profile == bench.profile
    assert torch.equal(bench.at(0).factor, bench.factor)
    assert there.profile.layer == 1
    assert there.profile.module.endswith("h.1.mlp.c_proj")
    assert not torch.equal(there.factor, bench.factor)
    assert there.patch(CASES[0].request).manifest.layer == 1
