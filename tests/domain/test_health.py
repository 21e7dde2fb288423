import pytest

from errata_server.domain.checks import Verdict
from errata_server.domain.health import Drift, LayerStrain, layer_health, problems
from errata_server.domain.patches import Composition
from errata_server.domain.policies import Policy


def strain(*, live_edits=100, firings=0, disturbance=0.0):
    return LayerStrain(
        layer=3,
        module="h.3.mlp.c_proj",
        live_edits=live_edits,
        keys=live_edits,
        width=1_024,
        firings=firings,
        ordinary_keys=10_000,
        disturbance=disturbance,
    )


def judged(of_layer, drift, composition=Composition.GUARDED):
    layer = layer_health(of_layer, drift, Policy(), composition)
    verdict, warnings = problems([layer], drift, Policy(), composition)
    return layer, verdict, warnings


def test_a_model_without_drift_is_well_and_no_limit_is_made_up():
    layer, verdict, warnings = judged(strain(), Drift(base=20.0, served=20.0))

    assert (layer.budget, layer.limited_by) == (None, "")
    assert verdict is Verdict.PASSED
    assert warnings == ()


@pytest.mark.parametrize(
    ("served", "verdict", "words"),
    [
        (20.4001, Verdict.WARNED, "retrain soon"),
        (20.39, Verdict.WARNED, "holds 100 edits of the about 102"),
        (20.2, Verdict.PASSED, ""),
        (21.1, Verdict.FAILED, "the model is hurt"),
        (float("nan"), Verdict.FAILED, "the model is hurt"),
    ],
)
def test_drift_is_warned_about_before_the_model_is_hurt(served, verdict, words):
    _, found, warnings = judged(strain(), Drift(base=20.0, served=served))

    assert found is verdict
    assert words in " ".join(warnings)


@pytest.mark.parametrize(
    ("of_layer", "served", "budget", "limited_by"),
    [
        (strain(), 20.04, 1_000, "drift"),
        (strain(firings=20), 20.0, 500, "firings"),
        (strain(firings=20), 20.04, 500, "firings"),
        (strain(firings=1), 20.04, 1_000, "drift"),
        (strain(live_edits=9, firings=20), 20.04, None, ""),
    ],
    ids=["drift alone", "firings alone", "firings first", "drift first", "too few to tell"],
)
def test_the_budget_is_what_the_first_limit_leaves(of_layer, served, budget, limited_by):
    layer, _, _ = judged(of_layer, Drift(base=20.0, served=served))

    assert layer.budget is None if budget is None else layer.budget == pytest.approx(budget, abs=1)
    assert layer.limited_by == limited_by


def test_guards_that_fire_on_ordinary_words_are_warned_about():
    _, verdict, warnings = judged(strain(firings=101), Drift(base=20.0, served=20.0))

    assert verdict is Verdict.WARNED
    assert "guards at layer 3 fire on 1.01 %" in warnings[0]


@pytest.mark.parametrize(
    ("disturbance", "verdict"),
    [(0.005, Verdict.PASSED), (0.02, Verdict.WARNED), (0.031, Verdict.FAILED)],
)
def test_disturbance_counts_where_the_edits_are_one_weight_change(disturbance, verdict):
    drift = Drift(base=20.0, served=20.0)

    assert judged(strain(disturbance=disturbance), drift, Composition.LINEAR)[1] is verdict
    assert judged(strain(disturbance=disturbance), drift)[1] is Verdict.PASSED


def test_a_server_without_fixed_texts_has_no_drift():
    assert Drift(base=0.0, served=0.0).rise == 0.0
