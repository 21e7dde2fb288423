"""What was said before is given again exactly where it would be said again."""

from dataclasses import asdict, replace

import pytest

from errata_server.domain.facts import CheckPrompt
from errata_server.domain.generation import GenerationOptions
from errata_server.domain.measurements import VerificationPlan
from errata_server.domain.patches import Composition
from errata_server.engine import answers, recall
from errata_server.engine.answers import continue_greedily
from errata_server.engine.bank import compose
from errata_server.engine.measure import measure, rehearse
from errata_server.engine.recall import Recall
from errata_server.engine.runner import BASE
from tests.support import tiny_models

SUBJECTS = ("Louvre", "Big Ben", "Prado", "Colosseum")
PROMPTS = tuple(f"{subject} is in the city of" for subject in (*SUBJECTS, "Eiffel Tower"))
TEXTS = (*tiny_models.PROSE, *(f"They say {subject} is old." for subject in SUBJECTS), "")
SAMPLED = GenerationOptions(temperature=1.0, top_k=5, seed=3)


def banks_of(runner):
    """Banks that share some edits, and a linear one."""
    patches = {
        subject: tiny_models.simple_patch(runner, subject, seed=seed, norm=200.0, guard_width=0.4)
        for seed, subject in enumerate(SUBJECTS)
    }
    some = [[], SUBJECTS[:1], SUBJECTS[:3], SUBJECTS[1:], SUBJECTS]
    guarded = [
        compose([patches[s] for s in live], Composition.GUARDED, runner.device) for live in some
    ]
    linear = compose([patches["Prado"]], Composition.LINEAR, runner.device)
    deeper = tiny_models.simple_patch(runner, "Louvre", seed=9, norm=200.0, layer=1)
    two = compose([patches["Prado"], deeper], Composition.GUARDED, runner.device)
    return [*guarded, linear, two, guarded[2], BASE]


@pytest.fixture
def counted(monkeypatch):
    """How many rows the model was asked to continue or to score."""
    rows = []
    for name in ("continue_rows", "losses"):
        plain = getattr(answers, name)

        def counting(runner, given, *arguments, plain=plain, **named):
            rows.extend(given)
            return plain(runner, given, *arguments, **named)

        monkeypatch.setattr(recall, name, counting)
    return rows


@pytest.mark.parametrize("options", [None, SAMPLED])
def test_every_bank_says_what_it_says_without_a_recall(either, options):
    remembering = Recall(either)

    for bank in banks_of(either):
        for prompts in (PROMPTS[:3], PROMPTS, PROMPTS[::-1]):
            said = remembering.continue_prompts(prompts, bank, new_tokens=4, options=options)
            plain = continue_greedily(either, prompts, bank, new_tokens=4, options=options)
            assert said == plain


def test_every_bank_has_the_perplexity_it_has_without_a_recall(either):
    remembering = Recall(either)

    for bank in banks_of(either):
        for texts in (TEXTS[:3], TEXTS, TEXTS[::-1], TEXTS[:2] * 2):
            found = remembering.perplexity(texts, bank)
            assert found == pytest.approx(answers.perplexity(either, texts, bank), rel=1e-5)
    assert remembering.perplexity((), BASE) == 1.0


def test_only_what_a_guard_has_a_say_in_is_computed_again(trained, counted):
    remembering = Recall(trained)
    patch = tiny_models.simple_patch(trained, "Louvre", norm=200.0)
    bank = compose([patch], Composition.GUARDED, trained.device)
    texts = (*tiny_models.PROSE, "Louvre is old.")

    remembering.continue_prompts(PROMPTS, BASE, new_tokens=4)
    remembering.perplexity(texts, BASE)
    first = len(counted)
    remembering.continue_prompts(PROMPTS, bank, new_tokens=4)
    remembering.perplexity(texts, bank)

    assert first == len(PROMPTS) + len(texts)
    again = [trained.tokens.decode(row) for row in counted[first:]]
    assert again == [PROMPTS[0], texts[-1]]


def test_the_start_of_what_was_said_is_not_computed_again(trained, counted):
    remembering = Recall(trained)
    patch = tiny_models.simple_patch(trained, "Louvre", norm=200.0)
    for bank in (BASE, compose([patch], Composition.GUARDED, trained.device)):
        remembering.continue_prompts(PROMPTS, bank, new_tokens=6)
        counted.clear()
        for length in (6, 3, 1):
            said = remembering.continue_prompts(PROMPTS, bank, new_tokens=length)
            assert said == continue_greedily(trained, PROMPTS, bank, new_tokens=length)
        assert counted == []


def test_more_than_was_said_is_computed_unless_the_text_had_ended(trained, counted):
    remembering = Recall(trained)
    for length in (1, 20):  # the trained model ends its answer after a few tokens
        remembering.continue_prompts(PROMPTS[:1], BASE, new_tokens=length)
    assert len(counted) == 2

    said = remembering.continue_prompts(PROMPTS[:1], BASE, new_tokens=30)

    assert said == continue_greedily(trained, PROMPTS[:1], BASE, new_tokens=30)
    assert len(counted) == 2


def test_a_guard_that_fires_on_what_was_said_has_its_say_from_there_on(trained, counted):
    (city,) = continue_greedily(trained, PROMPTS[:1], BASE, new_tokens=3)
    patch = tiny_models.simple_patch(trained, city.strip(" ."), norm=200.0)
    bank = compose([patch], Composition.GUARDED, trained.device)
    remembering = Recall(trained)
    remembering.continue_prompts(PROMPTS[:1], BASE, new_tokens=20)

    for length in (1, 3, 20):
        said = remembering.continue_prompts(PROMPTS[:1], bank, new_tokens=length)
        assert said == continue_greedily(trained, PROMPTS[:1], bank, new_tokens=length)


def test_a_prompt_that_has_no_room_for_the_others_answers_is_still_rehearsed(trained, counted):
    text = " ".join(tiny_models.PROSE * 4)
    long = trained.tokens.decode(trained.tokens.encode(text)[: trained.tokens.context - 8])
    plan = replace(
        plan_of("Louvre"),
        paraphrases=(CheckPrompt(prompt=long, expected="Rome"),),
        same_subject=(CheckPrompt(prompt=PROMPTS[2], expected="a city in the very far south"),),
    )
    remembering = Recall(trained)

    rehearse(remembering, [plan], [BASE], progress=lambda _: None)

    assert tuple(trained.tokens.encode(long)) in counted


def test_a_prompt_that_fills_the_context_is_left_out_of_a_rehearsal(trained, counted):
    text = " ".join(tiny_models.PROSE * 4)
    whole = trained.tokens.decode(trained.tokens.encode(text)[: trained.tokens.context])
    full = CheckPrompt(prompt=whole, expected="Rome")
    assert len(trained.tokens.encode(whole)) == trained.tokens.context

    rehearse(
        Recall(trained),
        [replace(plan_of("Louvre"), suite=(full,))],
        [BASE],
        progress=lambda _: None,
    )

    assert counted
    assert tuple(trained.tokens.encode(whole)) not in counted


def test_an_edit_beside_others_says_what_it_says_alone(trained, counted):
    patches = [tiny_models.simple_patch(trained, s, seed=i) for i, s in enumerate(SUBJECTS)]
    alone = compose(patches[:1], Composition.GUARDED, trained.device)
    together = compose(patches, Composition.GUARDED, trained.device)
    remembering = Recall(trained)
    remembering.continue_prompts(PROMPTS, together, new_tokens=4)
    counted.clear()

    remembering.continue_prompts(PROMPTS[:1], alone, new_tokens=4)

    assert counted == []


def test_two_values_of_one_subject_are_never_mixed_up(trained, counted):
    patch = tiny_models.simple_patch(trained, "Louvre", norm=200.0)
    other = replace(patch, residual=-patch.residual)
    remembering = Recall(trained)
    for one in (patch, other, patch):
        bank = compose([one], Composition.GUARDED, trained.device)
        said = remembering.continue_prompts(PROMPTS[:1], bank, new_tokens=4)
        assert said == continue_greedily(trained, PROMPTS[:1], bank, new_tokens=4)
    assert len(counted) == 2


def test_what_was_rehearsed_is_measured_without_asking_again(trained, counted):
    patches = [tiny_models.simple_patch(trained, s, seed=i) for i, s in enumerate(SUBJECTS[:2])]
    banks = [compose([one], Composition.GUARDED, trained.device) for one in patches]
    plans = [plan_of(subject) for subject in SUBJECTS[:2]]
    remembering = Recall(trained)
    together = compose(patches, Composition.GUARDED, trained.device)

    rehearse(remembering, plans, [BASE, together], progress=lambda _: None)
    counted.clear()
    found = [
        measure(remembering, plan, before=BASE, after=bank, progress=lambda _: None)
        for plan, bank in zip(plans, banks, strict=True)
    ]

    assert counted == []
    for plan, bank, measured in zip(plans, banks, found, strict=True):
        plain = measure(Recall(trained), plan, before=BASE, after=bank, progress=lambda _: None)
        for name, value in asdict(plain).items():
            found_value = asdict(measured)[name]
            close = isinstance(value, float)
            assert found_value == (pytest.approx(value, abs=1e-6) if close else value), name


def plan_of(subject):
    def check(about, template=tiny_models.TEMPLATES[0]):
        return CheckPrompt(prompt=template.format(about), expected="Rome")

    return VerificationPlan(
        efficacy=(check(subject),),
        paraphrases=(check(subject, tiny_models.TEMPLATES[1]),),
        neighbours=(check("Prado"), check("Colosseum")),
        prefixed_neighbours=(check("Eiffel Tower"),),
        same_subject=(),
        fluency=(f"{subject} is", f"{subject} was"),
        drift_texts=TEXTS[:-1],
    )


def test_what_was_said_longest_ago_is_forgotten(trained, counted, monkeypatch):
    monkeypatch.setattr(recall, "KEPT_TOKENS", 2 * 3)  # two answers of two tokens
    remembering = Recall(trained)
    for prompt in (*PROMPTS[:3], PROMPTS[0]):
        remembering.continue_prompts([prompt], BASE, new_tokens=2)
    assert len(counted) == 4
