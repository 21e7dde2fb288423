"""Every method edits a real model, and leaves it as it was."""

import pytest
import torch

from benchmarks.editing.cases import Case
from benchmarks.editing.firings import Cause, explain, guards_of, selectivity
from benchmarks.editing.judging import Group, Judge, Tally
from benchmarks.editing.methods import MethodName, opened
from errata_server.domain.facts import CheckPrompt, EditRequest, Fact
from errata_server.engine.keys import keys_at_subject

TEMPLATE = "{} is in the city of"
WRITE_THE_WEIGHT = {MethodName.ROME, MethodName.R_ROME, MethodName.FINETUNE}


def case(subject: str = "Louvre", true: str = "Paris", target: str = "Rome") -> Case:
    def asked(template: str, about: str, expected: str) -> CheckPrompt:
        return CheckPrompt(prompt=template.format(about), expected=expected)

    return Case(
        request=EditRequest(subject=subject, facts=(Fact(template=TEMPLATE, target=target),)),
        true=true,
        efficacy=asked(TEMPLATE, subject, target),
        paraphrases=(asked("{} can be found in", subject, target),),
        neighbours=(asked(TEMPLATE, "Big Ben", "London"), asked(TEMPLATE, "Prado", "Madrid")),
    )


def judged(bench, name, cases):
    judge, tally = Judge(bench, cases), Tally()
    judge.learn(cases)
    with opened(name, bench) as method:
        method.edit(cases)
        with method.answering() as condition:
            judge.judge(cases, condition, tally)
    return tally


# The tiny model reads no instructions, and r-ROME solves for the prefixed key alone, which a
# subject at the very start of a prompt does not have: its known price. What MEMIT and AlphaEdit
# spread over the tiny model's layers falls short of a first edit.
FALL_SHORT = {MethodName.PROMPT, MethodName.R_ROME, MethodName.MEMIT, MethodName.ALPHAEDIT}


@pytest.mark.parametrize("name", [n for n in MethodName if n not in FALL_SHORT])
def test_every_editing_method_makes_one_edit_true(bench, name):
    figures = judged(bench, name, [case()]).figures()

    assert figures["efficacy"] == figures["es"] == 100


@pytest.mark.parametrize("name", MethodName)
def test_the_weight_is_as_it_was_when_the_block_ends(bench, name):
    weight = bench.module.get_parameter("weight")
    before = weight.detach().clone()

    with opened(name, bench) as method:
        method.edit([case()])
        changed = not torch.equal(weight, before)

    assert changed == (name in WRITE_THE_WEIGHT)
    assert torch.equal(weight, before)
    assert not weight.requires_grad


@pytest.mark.parametrize(
    ("name", "prefixes"), [(MethodName.ROME, slice(1)), (MethodName.R_ROME, slice(1, None))]
)
def test_a_rank_one_change_gives_the_value_where_it_was_solved(bench, name, prefixes):
    prompt = case().efficacy.prompt
    leads = ["", *bench.profile.prefixes][prefixes]
    texts = [f"{lead} {prompt}".strip() for lead in leads]
    key = keys_at_subject(bench.runner, bench.profile.module, texts, "Louvre").mean(dim=0)
    bare = keys_at_subject(bench.runner, bench.profile.module, [prompt], "Louvre")[0]
    patch = bench.patch(case().request)

    with torch.no_grad(), opened(name, bench) as method:
        value = bench.module(bare[None])[0] + patch.residual
        method.edit([case()])
        edited = bench.module(key[None])[0]

    assert torch.allclose(edited, value, atol=1e-3)


def test_a_prompt_is_told_the_edits_of_the_subjects_it_names(bench):
    with opened(MethodName.PROMPT, bench) as method:
        method.edit([case(), case("Big Ben", "London", "Madrid")])
        with method.answering() as condition:
            told = condition.rewrite("Louvre can be found in")
            same = condition.rewrite("Louvres can be found in")

    assert told == "Louvre is in the city of Rome. Louvre can be found in"
    assert same == "Louvres can be found in"


def test_a_codebook_answers_its_own_prompt_and_is_gone_afterwards(bench):
    judge, inside, outside = Judge(bench, [case()]), Tally(), Tally()
    judge.learn([case()])
    with opened(MethodName.CODEBOOK, bench) as method:
        method.edit([case()])
        with method.answering() as condition:
            judge.ask([case()], condition, inside)
        judge.ask([case()], condition, outside)

    (answer,) = inside.answers[Group.EFFICACY]
    assert answer.held_after
    (answer,) = outside.answers[Group.EFFICACY]
    assert answer.after == answer.before


def test_a_kept_patch_is_read_and_another_history_is_not_taken_for_it(bench):
    first = bench.patch(case().request)
    bench.patch(case().request)
    bench.patch(case().request, history="others")

    assert len(bench.effort.seconds) == 2
    assert bench.effort.patches == 3
    assert torch.equal(bench.patch(case().request).residual, first.residual)


def test_firings_explain_a_miss_and_what_neighbours_lost(bench):
    edit = case()
    blind = case(target="London")  # asked for what was never edited
    with opened(MethodName.ERRATA, bench) as method:
        method.edit([edit])
        with method.answering() as condition:
            judge, tally = Judge(bench, [blind]), Tally()
            judge.learn([blind])
            judge.judge([blind], condition, tally)
            guards = guards_of(bench, [edit], condition)
            found = explain(guards, [blind], tally)
            figures, _ = selectivity(guards, condition)

    assert found.causes[blind.efficacy.prompt] is Cause.VALUE
    assert found.fired[blind.efficacy.prompt] == ["Louvre"]
    assert figures["named_firings_per_million"] > 0
