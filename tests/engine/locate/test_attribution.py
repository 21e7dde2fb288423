"""Attribution: slopes that are the slopes, and what is claimed of them."""

import math
from itertools import islice

import pytest
import torch

from benchmarks.attribution import open_comparison, rank_correlation
from errata_server import files
from errata_server.domain.errors import CancelledError
from errata_server.domain.patches import Composition
from errata_server.domain.traces import Corruption, Metric, TraceKind, TraceRequest
from errata_server.engine.bank import compose
from errata_server.engine.blocks import run_layer
from errata_server.engine.locate import attribution
from errata_server.engine.locate.attribution import KINDS, ROW, gradients, screen
from errata_server.engine.locate.case import Steps
from errata_server.engine.locate.causal import Tracer
from errata_server.engine.locate.cells import window_of
from errata_server.engine.locate.corruption import subject_sigma
from errata_server.engine.locate.readouts import answer_readout
from errata_server.engine.runner import BASE
from tests.support import tiny_models
from tests.support.locating import KNOWN_CITIES, PROMPT, SUBJECT, case, silent

NOISE = Corruption(samples=3, seed=4)


def case_of(runner, **changes):
    return case(runner, answer="Paris", known_facts=KNOWN_CITIES, seed=4, **changes)


def steps():
    return Steps(silent, total=1)


def noisy(asked):
    """Two corrupted residual streams before the first layer."""
    ids = torch.tensor([list(asked.ids)] * 2)
    noise = torch.randn(
        2, len(asked.ids), asked.blocks.d_model, generator=torch.Generator().manual_seed(1)
    )
    positions = torch.arange(len(asked.ids))
    return asked.step(lambda: asked.blocks.place(asked.blocks.embed(ids) + 0.3 * noise, positions))


def readout_of(asked):
    return answer_readout(
        asked.blocks,
        Metric.LOG_PROBABILITY,
        answer=asked.answer_ids[:1],
        foil=0,
        clean=torch.zeros(0),
    )


def scored(asked, readout, placed, kind, layer, change):
    """Scores of the runs from ``placed`` with ``change`` added at one layer's site."""
    residual = placed
    for index in range(asked.blocks.layers):
        one = run_layer(asked.blocks, index, residual)
        if index != layer:
            residual = one.after
        elif kind is TraceKind.ATTN:
            middle = one.middle + change
            residual = middle + asked.blocks.mlp_output(layer, middle)
        else:
            residual = one.after + change
    return readout.scores(residual[:, -1:])


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_gradients_are_finite_differences_of_the_score(either, kind):
    asked = case_of(either)
    placed, readout = noisy(asked), readout_of(asked)
    _, _, slopes = asked.step(lambda: gradients(asked.blocks, readout, placed), gradients=True)
    row = list(KINDS).index(kind)
    generator = torch.Generator().manual_seed(9)

    for layer, token in ((0, 4), (0, len(asked.ids) - 1), (asked.blocks.layers - 1, -1)):
        way = torch.zeros(len(asked.ids), asked.blocks.d_model)
        way[token] = torch.randn(asked.blocks.d_model, generator=generator)
        ends = [
            asked.step(
                lambda e=e, la=layer, w=way: scored(asked, readout, placed, kind, la, e * w)
            ).double()
            for e in (0.01, -0.01)
        ]
        measured = (ends[0] - ends[1]) / 0.02
        predicted = (slopes[row, layer] * way).sum(dim=(-1, -2)).double()
        assert predicted.abs().max() > 1e-3
        assert torch.allclose(predicted, measured, rtol=0.05, atol=0.01)


def test_a_screen_is_of_the_very_runs_the_causal_trace_makes(either):
    asked = case_of(either)
    sigma = subject_sigma(asked.blocks, either.tokens, list(tiny_models.CITIES))
    tracer = Tracer(runner=either, bank=BASE, sigma=sigma)

    found = screen(asked, NOISE, window=2, steps=steps())

    exact = tracer.trace(
        TraceRequest(
            prompt=PROMPT,
            subject=SUBJECT,
            answer="Paris",
            corruption=NOISE,
            metric=Metric.LOG_PROBABILITY,
            window=2,
        ),
        progress=silent,
    )
    assert found.clean == pytest.approx(exact.clean, abs=1e-3)
    assert found.corrupted == pytest.approx(exact.corrupted, abs=1e-3)
    first = asked.subject_positions[0]
    for kind in KINDS:
        assert found.grids[kind].shape == (len(asked.ids), asked.blocks.layers)
        assert not found.grids[kind][:first].any()  # nothing there was corrupted
        assert found.grids[kind][first:].any()


def test_small_noise_makes_the_estimate_the_effect_itself(gpt2):
    # Behind the last layer the score is a function of one state: where clean and corrupted are
    # close, its slope is all there is to know.
    asked = case_of(gpt2)
    sigma = subject_sigma(asked.blocks, gpt2.tokens, list(tiny_models.CITIES))
    tracer = Tracer(runner=gpt2, bank=BASE, sigma=sigma)
    faint = Corruption(samples=2, seed=4, scale=0.01)

    found = screen(asked, faint, window=1, steps=steps())

    exact = tracer.trace(
        TraceRequest(
            prompt=PROMPT,
            subject=SUBJECT,
            answer="Paris",
            corruption=faint,
            metric=Metric.LOG_PROBABILITY,
            window=1,
        ),
        progress=silent,
    )
    for grid in exact.grids:
        effects = torch.tensor(grid.scores, dtype=torch.float64) - exact.corrupted
        largest = float(effects.abs().max())
        assert largest > 0
        assert torch.allclose(found.grids[grid.kind], effects, atol=0.1 * largest)
        assert rank_correlation(found.grids[grid.kind].tolist(), effects.tolist()) > 0.9


def test_a_windows_estimate_is_the_sum_over_its_layers(gpt2):
    asked = case_of(gpt2)
    alone = screen(asked, NOISE, window=1, steps=steps())
    wide = screen(asked, NOISE, window=2, steps=steps())

    assert torch.equal(alone.grids[TraceKind.HIDDEN], wide.grids[TraceKind.HIDDEN])
    for kind in (TraceKind.MLP, TraceKind.ATTN):
        for layer in range(asked.blocks.layers):
            first, end = window_of(layer, asked.blocks.layers, 2)
            total = alone.grids[kind][:, first:end].sum(dim=1)
            assert torch.allclose(wide.grids[kind][:, layer], total)


def test_samples_in_several_passes_are_samples_in_one(gpt2, monkeypatch):
    asked = case_of(gpt2)
    together = screen(asked, NOISE, window=1, steps=steps())
    monkeypatch.setattr(attribution, "SAMPLES", 2)

    apart = screen(asked, NOISE, window=1, steps=steps())

    assert apart.corrupted == pytest.approx(together.corrupted, abs=1e-5)
    for kind in KINDS:
        assert torch.allclose(apart.grids[kind], together.grids[kind], atol=1e-4)


def test_live_edits_take_part(either):
    named = PROMPT[: PROMPT.index(SUBJECT) + len(SUBJECT)]  # its key is the one in the prompt
    patch = tiny_models.simple_patch(either, named, seed=1, norm=3000.0)
    bank = compose([patch], Composition.GUARDED, either.device)

    plain, edited = (
        screen(case_of(either, bank=one), NOISE, window=1, steps=steps()) for one in (BASE, bank)
    )

    said = either.logits(either.tokens.pad([case_of(either).ids]), bank)[0, -1].log_softmax(-1)
    assert edited.clean == pytest.approx(float(said[case_of(either).answer_ids[0]]), abs=1e-4)
    assert edited.clean != pytest.approx(plain.clean, abs=1e-3)


def test_the_locator_calls_itself_approximate_in_every_chart(gpt2):
    asked = case_of(gpt2)
    seen = []

    findings = ROW.run(asked, ROW.locator.chosen({"samples": 3, "window": 2}), seen.append)

    assert len(findings.charts) == len(KINDS)
    for chart in findings.charts:
        assert "Approximation" in chart.title
        assert chart.rows == asked.token_texts
        assert chart.columns == ("0", "1")
        assert len(chart.values) == len(asked.ids)
    grid = screen(asked, NOISE, window=2, steps=steps()).grids[TraceKind.MLP]
    chart = next(c for c in findings.charts if "MLP" in c.title)
    assert torch.allclose(torch.tensor(chart.values, dtype=torch.float64), grid)
    token, layer = divmod(int(grid.argmax()), asked.blocks.layers)
    assert findings.figures["mlp_peak_token"] == token
    assert findings.figures["mlp_peak_layer"] == layer
    assert [p.done for p in seen] == list(range(1, seen[-1].total + 1))


def test_it_can_be_cancelled_between_steps(gpt2):
    seen = []

    def cancel(progress):
        seen.append(progress)
        if len(seen) == 3:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        ROW.run(case_of(gpt2), ROW.locator.chosen({}), cancel)

    assert len(seen) == 3
    assert not any(module._forward_hooks for module in gpt2.model.modules())
    assert all(p.grad is None for p in gpt2.model.parameters())


def test_rank_correlation_is_of_the_order_alone():
    grid = [[1.0, 5.0], [2.0, -3.0]]

    assert rank_correlation(grid, [[math.exp(v) for v in row] for row in grid]) == 1.0
    assert rank_correlation(grid, [[-v for v in row] for row in grid]) == -1.0
    # By hand: ranks 1 2 3 4 against 2 1 4 3, so 1 - 6 * 4 / (4 * 15).
    assert rank_correlation([[1.0, 2.0], [3.0, 4.0]], [[2.0, 1.0], [4.0, 3.0]]) == pytest.approx(
        0.6
    )
    assert math.isnan(rank_correlation(grid, [[1.0, 1.0], [1.0, 1.0]]))


@pytest.mark.skipif(not files.BUNDLED_MODEL.is_dir(), reason="the bundled model is not built yet")
def test_on_the_bundled_model_it_orders_sites_much_as_the_exact_trace_does():
    comparison = open_comparison(samples=3, seed=4)
    try:
        found = [comparison.compare(asked) for asked in islice(comparison.questions(seed=4), 3)]
    finally:
        comparison.runner.close()
    correlations = [one.correlations[kind] for one in found for kind in KINDS]

    assert sum(correlations) / len(correlations) > 0.6
    assert min(correlations) > 0.2
