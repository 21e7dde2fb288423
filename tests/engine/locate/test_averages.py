"""Averages are aligned on roles, bounded by bootstrap, and say what they left out."""

from dataclasses import replace

import numpy as np
import pytest

from errata_server.domain.errors import CancelledError, InvalidInputError
from errata_server.domain.traces import Corruption, TokenRole, TraceKind, TraceRequest
from errata_server.engine.locate.averages import average_trace
from errata_server.engine.locate.causal import Tracer
from errata_server.engine.locate.corruption import Sigma
from errata_server.engine.runner import BASE
from tests.support.tiny_models import CITIES

KINDS = (TraceKind.HIDDEN, TraceKind.MLP)


@pytest.fixture(scope="module")
def tracer(trained):
    return Tracer(runner=trained, bank=BASE, sigma=Sigma(value=0.2, source="a test"))


def request(subject, answer, template="{} is in the city of"):
    return TraceRequest(
        prompt=template.format(subject), subject=subject, answer=answer, kinds=KINDS, window=1
    )


KNOWN = [request(subject, city) for subject, city in CITIES.items()]


def silent(_):
    pass


@pytest.fixture(scope="module")
def average(tracer):
    return average_trace(tracer, KNOWN, progress=silent)


def test_an_effect_is_the_mean_over_facts_of_the_mean_over_their_tokens_of_a_role(tracer, average):
    traces = [tracer.trace(one, progress=silent) for one in KNOWN]
    for curve in average.curves:
        rows = []
        for trace in traces:
            grid = next(grid for grid in trace.grids if grid.kind is curve.kind)
            effects = [
                np.array(row) - trace.corrupted
                for token, row in zip(trace.tokens, grid.scores, strict=True)
                if token.role is curve.role
            ]
            if effects:
                rows.append(np.mean(effects, axis=0))
        assert curve.sites == len(rows)
        assert np.allclose(curve.effects, np.mean(rows, axis=0))
    assert average.facts == len(KNOWN)
    assert average.clean == pytest.approx(np.mean([trace.clean for trace in traces]))
    assert average.total_effect == pytest.approx(average.clean - average.corrupted)


def test_every_kind_has_a_curve_for_every_role_and_none_before_the_subject(tracer):
    late = request("Prado", "", template="They say it. {} is in the city of")
    average = average_trace(tracer, [late], progress=silent)
    roles = {(curve.kind, curve.role) for curve in average.curves}

    assert {kind for kind, _ in roles} == set(KINDS)
    assert TokenRole.LAST_SUBJECT in {role for _, role in roles}
    assert TokenRole.BEFORE not in {role for _, role in roles}


def test_bounds_hold_the_mean_and_are_narrower_than_the_facts_are_spread(average):
    for curve in average.curves:
        assert all(
            low <= mean <= high
            for low, mean, high in zip(curve.low, curve.effects, curve.high, strict=True)
        )
    assert average.total_effect_low < average.total_effect < average.total_effect_high


def test_facts_that_cannot_be_averaged_are_left_out_and_named(tracer):
    unfit = [
        request("Prado", "Rome"),
        TraceRequest(prompt="The sky is", subject="Prado", answer="blue"),
        TraceRequest(prompt="Prado " * 200, subject="Prado", answer="Madrid"),
        replace(KNOWN[1], corruption=Corruption(replacements=("one of quite many tokens",))),
        replace(KNOWN[1], answer=f"{KNOWN[1].answer} {'and so on ' * 60}"),
    ]
    found = average_trace(tracer, [*unfit, KNOWN[0]], progress=silent)

    assert found.facts == 1
    assert [fact.prompt for fact in found.dropped] == [one.prompt for one in unfit]
    reasons = [fact.reason for fact in found.dropped]
    assert "does not say 'Rome'" in reasons[0]
    assert "does not name the subject" in reasons[1]
    assert "shorten it" in reasons[2]
    assert "as many tokens" in reasons[3]
    assert "shorten it" in reasons[4]
    assert any("1 facts are few" in warning for warning in found.warnings)


def test_no_fact_left_is_an_error_that_says_why(tracer):
    with pytest.raises(InvalidInputError, match="does not say 'Rome'"):
        average_trace(tracer, [request("Prado", "Rome")], progress=silent)


def test_cancelling_does_not_wait_for_the_trace_that_runs(tracer):
    calls = []

    def cancel(progress):
        calls.append(progress)
        if len(calls) == 2:  # the first within a trace
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        average_trace(tracer, KNOWN, progress=cancel)
    assert calls[-1].done == 0
