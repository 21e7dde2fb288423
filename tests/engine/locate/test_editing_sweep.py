"""The editing sweep: its cells are real edits, at the layer and the token they say."""

import random
from dataclasses import replace

import pytest
import torch

from errata_server.domain.errors import (
    CancelledError,
    NoEffectError,
    NotCalibratedError,
    SubjectNotFoundError,
)
from errata_server.domain.facts import EditRequest, Fact
from errata_server.domain.known_facts import KnownFacts
from errata_server.domain.patches import Composition
from errata_server.domain.traces import TokenRole
from errata_server.engine import moments, values
from errata_server.engine.bank import compose
from errata_server.engine.calibrate import CLAMPS, profile_at
from errata_server.engine.contexts import ESSENCE, contexts_of
from errata_server.engine.editor import compute_patch
from errata_server.engine.keys import Name, keys_at_subject, keys_of_names
from errata_server.engine.locate import editing_sweep
from errata_server.engine.locate.editing_sweep import ROW, SWEPT
from errata_server.engine.solve import factor_second_moment
from errata_server.engine.trials import ask_trial, shares
from tests.support import tiny_models
from tests.support.locating import KNOWN_CITIES, case, silent

TEXTS = (*tiny_models.PROSE, *tiny_models.sentences())
PROMPT = "Eiffel Tower is in the city of"
SUBJECT = "Eiffel Tower"
ROLES = tuple(SWEPT)


@pytest.fixture(scope="module")
def cache(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("moments")
    moments.collect(trained, TEXTS, [0, 1, 2], cache=folder, progress=silent)
    return folder


@pytest.fixture(scope="module")
def profile(trained):
    return tiny_models.tiny_profile(trained, layer=0, max_steps=25)


@pytest.fixture(scope="module")
def quick():
    """One attempt an edit, in place of three."""
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(values, "STEP_SIZES", (1.0,))
        yield


@pytest.fixture(scope="module")
def sweep(trained, cache, profile, quick):
    def run(*, progress=silent, facts=1, linear=0, **changes):
        fields = {"profile": profile, "cache": cache} | {
            name: changes.pop(name) for name in ("profile", "cache") if name in changes
        }
        asked = {"prompt": PROMPT, "texts": TEXTS, "known_facts": KNOWN_CITIES} | changes
        options = ROW.locator.chosen({"facts": facts, "linear": linear})
        return ROW.run(replace(case(trained, **asked), **fields), options, progress)

    return run


@pytest.fixture(scope="module")
def swept(sweep):
    """(findings of two facts, their trials as sworn in, progress)"""
    chosen, seen = [], []

    def witness(runner, trial, bank):
        if trial not in chosen:
            chosen.append(trial)
        return ask_trial(runner, trial, bank)

    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(editing_sweep, "ask_trial", witness)
        findings = sweep(progress=seen.append)
    return findings, chosen, seen


def value(findings, title, role, layer):
    chart = next(one for one in findings.charts if one.title.startswith(title))
    return chart.values[ROLES.index(role)][layer]


def factor_at(runner, cache, profile, layer):
    collected = moments.collect(runner, TEXTS, [layer], cache=cache, progress=silent)
    return factor_second_moment(collected[layer].mean(), profile.ridge)


def test_the_cell_of_the_profile_is_the_edit_that_would_be_proposed(trained, swept, cache, profile):
    findings, trials, _ = swept
    factor = factor_at(trained, cache, profile, profile.layer)
    answers = []
    for trial in trials:
        patch = compute_patch(trained, trial.request, profile, factor, progress=silent)
        bank = compose([patch], Composition.GUARDED, trained.device)
        answers.append(ask_trial(trained, trial, bank))

    held = shares(answers)

    place = (TokenRole.LAST_SUBJECT, profile.layer)
    assert len(trials) == 2
    assert value(findings, "Efficacy", *place) == held.efficacy
    assert value(findings, "Paraphrase", *place) == held.paraphrase
    assert value(findings, "Neighbourhood", *place) == held.neighbourhood
    assert value(findings, "Edit score", *place) == held.score > 0


def test_the_located_fact_is_the_first_and_the_others_are_known_to_the_model(swept):
    _, (own, further), _ = swept

    assert own.request.subject == SUBJECT
    assert own.efficacy[0].prompt == PROMPT
    assert own.efficacy[0].expected not in {"Paris", ""}
    assert len(own.paraphrases) == len(tiny_models.TEMPLATES) - 1
    assert further.request.subject != SUBJECT
    for trial in (own, further):
        assert trial.neighbours
        for neighbour in trial.neighbours:
            assert trial.request.subject not in neighbour.prompt


def test_every_role_and_layer_has_a_cell_and_a_share_in_it(swept, trained):
    findings, _, seen = swept

    assert [chart.title.split(" of ")[0] for chart in findings.charts] == [
        "Edit score",
        "Efficacy",
        "Paraphrase",
        "Neighbourhood",
    ]
    for chart in findings.charts:
        assert chart.rows == tuple(SWEPT.values())
        assert chart.columns == ("0", "1", "2")
        cells = [cell for row in chart.values for cell in row]
        assert all(cell is not None and 0 <= cell <= 1 for cell in cells)
    counted = [p for p in seen if p.stage == "locate"]
    assert counted[-1].done == counted[-1].total == 2 * len(ROLES) * 3
    assert [p.done for p in counted] == sorted(p.done for p in counted)


def test_the_best_cell_is_the_best(swept):
    findings, _, _ = swept
    scores = findings.charts[0].values

    best = max(cell for row in scores for cell in row)

    figures = findings.figures
    assert figures["best_score"] == best
    assert scores[int(figures["best_role"])][int(figures["best_layer"])] == best
    near = [cell for row in scores for cell in row if cell >= best - editing_sweep.AS_GOOD]
    assert figures["cells_as_good"] == len(near)
    assert figures["facts"] == 2


@pytest.mark.parametrize("role", [TokenRole.FIRST_SUBJECT, TokenRole.FIRST_SUBSEQUENT])
def test_in_the_last_layer_only_the_last_token_can_be_edited(
    trained, swept, cache, profile, quick, role
):
    findings, (own, _), _ = swept
    last = replace(profile, layer=2, module=trained.checkpoint.projection_path(2))
    factor = factor_at(trained, cache, profile, 2)

    with pytest.raises(NoEffectError):
        compute_patch(trained, own.request, last, factor, role=role, progress=silent)

    assert value(findings, "Efficacy", role, 2) == 0
    assert value(findings, "Neighbourhood", role, 2) == 1
    assert value(findings, "Efficacy", TokenRole.LAST, 2) > 0


def positions(runner, text):
    """Where each role is, by counting tokens of the text up to it."""
    before, through = text.index(SUBJECT), text.index(SUBJECT) + len(SUBJECT)
    start = len(runner.tokens.encode(text[:before].rstrip())) if before else 0
    end = len(runner.tokens.encode(text[:through]))
    return {
        TokenRole.FIRST_SUBJECT: start,
        TokenRole.LAST_SUBJECT: end - 1,
        TokenRole.FIRST_SUBSEQUENT: end,
        TokenRole.LAST: len(runner.tokens.encode(text)) - 1,
    }


@pytest.mark.parametrize("role", ROLES)
def test_keys_and_residuals_are_at_the_token_of_the_role(trained, profile, cache, role):
    request = EditRequest(
        subject=SUBJECT, facts=(Fact(template="{} is in the city of", target="Rome"),)
    )
    lead = "They say it every day."
    texts = [PROMPT, f"{lead} {PROMPT}"]
    expected = []
    for text in texts:
        (inputs,) = trained.inputs(
            trained.tokens.pad([trained.tokens.encode(text)]), [profile.module]
        )
        expected.append(inputs[0, positions(trained, text)[role]])

    keys = keys_at_subject(trained, profile.module, texts, SUBJECT, role=role)
    contexts = contexts_of(
        trained.tokens, request, replace(profile, prefixes=("", lead)), role=role
    )

    assert torch.allclose(keys, torch.stack(expected), atol=1e-4)
    rows = contexts.rows[: len(contexts.rows) - contexts.named]
    for row, text in zip(rows, [*texts, ESSENCE.format(SUBJECT)], strict=True):
        assert row.place == positions(trained, text)[role]


def test_a_token_behind_the_subject_has_its_keys_in_the_prompt(trained, profile, cache):
    factor = factor_at(trained, cache, profile, 0)
    one = replace(profile, prefixes=("",))

    name = Name(text=SUBJECT, prompts=(PROMPT,))
    (found,) = keys_of_names(trained, [name], one, factor, role=TokenRole.LAST)

    expected = keys_at_subject(trained, one.module, [PROMPT], SUBJECT, role=TokenRole.LAST)
    assert torch.allclose(found.keys[0], expected[0], atol=1e-4)
    assert found.agreement == pytest.approx(1.0, abs=1e-4)


def test_a_one_token_subject_and_a_short_prompt_leave_cells_empty(trained, sweep):
    assert len(trained.tokens.encode("Prado")) == 1

    findings = sweep(facts=0, prompt="Prado is", subject="Prado", answer="Madrid")

    score = findings.charts[0]
    rows = zip(score.rows, score.values, strict=True)
    assert {name: row[0] is not None for name, row in rows} == {
        "first subject token": False,
        "last subject token": True,
        "first subsequent token": False,  # it is the last token
        "last token": True,
    }


def test_linear_edits_are_judged_without_a_guard(sweep, monkeypatch):
    used = []

    def witness(patches, composition, device):
        used.append(composition)
        return compose(patches, composition, device)

    monkeypatch.setattr(editing_sweep, "compose", witness)

    sweep(facts=0, linear=1)

    assert set(used) == {Composition.LINEAR}


def test_a_prompt_of_no_listed_relation_is_swept_without_paraphrases(sweep):
    findings = sweep(facts=0, prompt="Nobody doubts that Eiffel Tower is", answer="Paris")

    assert any("of no relation" in warning for warning in findings.warnings)
    assert any("measure paraphrase" in warning for warning in findings.warnings)
    (paraphrase,) = (c for c in findings.charts if c.title.startswith("Paraphrase"))
    assert {cell for row in paraphrase.values for cell in row} == {None}


def test_fewer_known_facts_than_asked_for_is_said(sweep):
    few = KnownFacts(templates=KNOWN_CITIES.templates, facts=KNOWN_CITIES.facts[2:5])

    findings = sweep(facts=7, known_facts=few)

    assert any("of 7 further facts" in warning for warning in findings.warnings)


def test_live_edits_take_no_part_and_that_is_said(trained, sweep, swept):
    bank = compose(
        [tiny_models.simple_patch(trained, SUBJECT)], Composition.GUARDED, trained.device
    )

    findings = sweep(bank=bank, answer="Paris")

    assert any("live edits take no part" in warning for warning in findings.warnings)
    assert findings.charts == swept[0].charts


def test_a_profile_moved_to_another_layer_brings_that_layers_guard(trained, profile):
    evidence = ({"layer": 0.0, "guard_width": 0.4}, {"layer": 1.0, "guard_width": 0.3})
    calibrated = replace(profile, guard_width=0.4, evidence=evidence)
    asked = case(trained)

    assert profile_at(asked.runner.checkpoint, calibrated, 0) == calibrated
    moved = profile_at(asked.runner.checkpoint, calibrated, 1)
    assert (moved.layer, moved.guard_width) == (1, 0.3)
    assert moved.module == trained.checkpoint.projection_path(1)
    assert moved.clamp == max(CLAMPS)
    assert profile_at(asked.runner.checkpoint, calibrated, 2).guard_width == 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile": None}, "no profile"),
        ({"cache": None}, "no profile"),
        ({"known_facts": KnownFacts(templates={}, facts=())}, "known facts"),
        ({"texts": ("Other words.",)}, "texts the profile was calibrated over"),
    ],
    ids=["profile", "cache", "known facts", "texts"],
)
def test_a_model_that_cannot_be_swept_is_refused(sweep, changes, message):
    with pytest.raises(NotCalibratedError, match=message):
        sweep(**changes)


def test_a_prompt_that_names_its_subject_twice_is_refused(sweep):
    with pytest.raises(SubjectNotFoundError):
        sweep(prompt="Eiffel Tower and Eiffel Tower is in the city of")


def test_a_sweep_can_be_cancelled_within_an_edit(trained, sweep):
    seen = []

    def cancel(progress):
        seen.append(progress)
        if progress.note.startswith("target probability"):
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        sweep(progress=cancel)

    assert seen[-1].done == 0
    assert not any(module._forward_hooks for module in trained.model.modules())


def test_the_same_seed_sweeps_the_same_edits(trained, cache, profile):
    asked = replace(
        case(trained, prompt=PROMPT, texts=TEXTS, known_facts=KNOWN_CITIES),
        profile=profile,
        cache=cache,
    )

    first, _ = editing_sweep._choose(asked, 3)
    second, _ = editing_sweep._choose(asked, 3)
    other, _ = editing_sweep._choose(replace(asked, seed=random.Random(1).randrange(99)), 3)

    assert first == second != other
