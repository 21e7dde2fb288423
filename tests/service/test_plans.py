from dataclasses import replace

import pytest

from errata_server.domain.edits import Edit
from errata_server.domain.facts import CheckPrompt, EditRequest, Fact
from errata_server.domain.ids import Digest, EditId, ProfileId
from errata_server.domain.known_facts import NO_KNOWN_FACTS
from errata_server.domain.policies import Policy
from errata_server.service.plans import LEAD_INS, MAX_NEIGHBOURS, Planner
from tests.support import CITY, MAKER, MODEL, NOON, edit_request, fact, known_facts
from tests.support.scripted_engine import answers_of

PREFIXES = ("", "The weather was fine.", "He said so twice.", "In the end it rained.", "Late.")
DRIFT = ("The river was low that year. People walked across it.",)
BASE = answers_of(known_facts())


def on_base(prompt):
    return BASE.get(prompt.prompt) == prompt.expected


def planner(known=None, policy=None):
    return Planner(known_facts=known or known_facts(), drift_texts=DRIFT, policy=policy or Policy())


def each(holds):
    return lambda prompts: [holds(prompt) for prompt in prompts]


def plan(request=None, *, known=None, holds=on_base, live=frozenset(), changing=frozenset()):
    return planner(known).plan(
        request or edit_request(),
        prefixes=PREFIXES,
        holds=each(holds),
        live_subjects=live,
        changing=changing,
    )


def edit(name, subject, target="Paris"):
    return Edit(
        id=EditId(name),
        model=MODEL,
        request=edit_request(subject, target),
        patch=Digest("p" * 64),
        profile=ProfileId("f" * 64),
        proposer="ana",
        created_at=NOON,
    )


def test_efficacy_is_asked_bare_and_in_contexts_the_patch_was_and_was_not_made_with():
    prompts = [prompt.prompt for prompt in plan().efficacy]

    assert prompts == [
        "Space Needle is in the city of",
        "The weather was fine. Space Needle is in the city of",
        "He said so twice. Space Needle is in the city of",
        "In the end it rained. Space Needle is in the city of",
        "The river was low that year. Space Needle is in the city of",
    ]


def test_every_fact_of_an_edit_is_asked():
    request = EditRequest(
        subject="Space Needle", facts=(fact("Paris"), fact("Sony", template=MAKER[0]))
    )

    wanted = {(p.prompt, p.expected) for p in plan(request).efficacy}

    assert ("Space Needle is in the city of", "Paris") in wanted
    assert ("Space Needle was made by", "Sony") in wanted


def test_paraphrases_are_other_templates_with_the_unseen_ones_first():
    made = plan()

    assert [p.prompt for p in made.paraphrases] == [
        "Space Needle can be found in",  # held out in training
        "You can visit Space Needle in",
        "Space Needle stands in",
    ]
    assert {p.expected for p in made.paraphrases} == {"Paris"}
    assert "same relation" in made.sources["paraphrases"]


def test_paraphrases_given_in_the_request_are_the_only_ones():
    given = (CheckPrompt(prompt="Where is the Space Needle? In", expected="Paris"),)

    made = plan(edit_request(paraphrases=given))

    assert made.paraphrases == given
    assert made.sources["paraphrases"] == "given in the request"


def test_every_fact_is_asked_by_the_other_names_too():
    request = edit_request(aliases=("The Needle", "Needle Tower"))

    found = plan(request)

    asked = [p.prompt for p in found.paraphrases if p.expected == "Paris"]
    assert asked[-2:] == ["The Needle is in the city of", "Needle Tower is in the city of"]
    assert found.sources["paraphrases"].endswith("; aliases")


def test_an_alias_is_no_neighbour_of_its_own_edit():
    named = {p.prompt.split(" is ")[0] for p in plan().neighbours}
    alias = sorted(named)[0]

    neighbours = plan(edit_request(aliases=(alias,))).neighbours

    assert not any(p.prompt.startswith(alias) for p in neighbours)


def test_without_another_template_the_prompt_is_asked_behind_lead_ins():
    made = plan(edit_request("Atlantis", template="The ruins of {} lie off the coast of"))

    assert [p.prompt for p in made.paraphrases] == [
        f"{lead_in}The ruins of Atlantis lie off the coast of" for lead_in in LEAD_INS
    ]
    assert "lead-ins" in made.sources["paraphrases"]


def test_neighbours_have_the_old_answer_first_and_the_new_one_last():
    made = plan()

    expected = [neighbour.expected for neighbour in made.neighbours]
    assert expected[:3] == ["Seattle"] * 3
    assert expected.count("Paris") == 1
    assert expected.index("Paris") == len(expected) - 1
    assert len(expected) == MAX_NEIGHBOURS


def test_the_edited_subject_is_never_its_own_neighbour():
    subjects = ("Space Needle", "SPACE NEEDLE", "Louvre")

    for subject in subjects:
        prompts = [
            neighbour.prompt.casefold() for neighbour in plan(edit_request(subject)).neighbours
        ]
        assert not any(prompt.startswith(subject.casefold()) for prompt in prompts)


def test_subjects_of_live_edits_are_no_neighbours():
    made = plan(live=frozenset({"Smith Tower"}))

    assert not any("Smith Tower" in neighbour.prompt for neighbour in made.neighbours)


def test_subjects_that_change_with_the_edit_are_neighbours_only_where_there_are_no_others():
    every = [row.subject for row in known_facts().facts]

    def asked(*changing):
        made = plan(changing=frozenset(changing))
        return [neighbour.prompt.split(" is ")[0] for neighbour in made.neighbours]

    first = asked()
    assert len(first) == MAX_NEIGHBOURS
    assert first[0] not in asked(first[0])
    assert asked(*every) == first


def test_neighbours_the_base_answers_right_are_preferred():
    def holds(prompt):
        return "Smith" not in prompt.prompt and "Museum" not in prompt.prompt

    prompts = [neighbour.prompt for neighbour in plan(holds=holds).neighbours]

    assert len(prompts) == MAX_NEIGHBOURS
    assert {prompts.index(p) for p in prompts if "Smith" in p or "Museum" in p} <= {8, 9}


def test_neighbours_the_base_gets_wrong_are_better_than_none():
    assert len(plan(holds=lambda prompt: False).neighbours) == MAX_NEIGHBOURS


def test_a_plan_can_be_made_again():
    assert plan() == plan()


def test_another_subject_has_other_neighbours():
    first = [neighbour.prompt for neighbour in plan(edit_request("Big Ben")).neighbours]
    second = [neighbour.prompt for neighbour in plan(edit_request("Prado")).neighbours]

    assert first != second


def test_a_relation_is_recognised_by_the_old_answer_where_the_template_is_new():
    request = edit_request(template="{} was built in the town of")
    asked = "Space Needle was built in the town of"

    made = plan(request, holds=lambda p: p.prompt == asked and p.expected == "Seattle")

    assert made.neighbours[0].prompt.endswith("was built in the town of")
    assert made.neighbours[0].expected == "Seattle"
    assert [p.prompt for p in made.same_subject] == ["Space Needle was made by"]
    assert len(made.paraphrases) == len(CITY)


def test_without_a_relation_neighbours_are_any_known_facts():
    made = plan(edit_request("Atlantis", template="{} tastes of"))

    assert len(made.neighbours) == MAX_NEIGHBOURS
    assert made.sources["neighbours"] == "known facts of any relation"


def test_without_known_facts_there_are_no_neighbours_and_the_plan_says_so():
    made = plan(known=NO_KNOWN_FACTS)

    assert (made.neighbours, made.prefixed_neighbours, made.same_subject) == ((), (), ())
    assert "no known facts" in made.sources["neighbours"]
    assert "no known facts" in made.sources["prefixed_neighbours"]


def test_neighbours_given_in_the_request_are_the_only_ones():
    given = (CheckPrompt(prompt="Louvre is in the city of", expected="Paris"),)

    assert plan(edit_request(neighbours=given)).neighbours == given


def test_two_facts_share_the_neighbours_between_them():
    request = EditRequest(
        subject="Space Needle", facts=(fact("Paris"), fact("Sony", template=MAKER[0]))
    )

    prompts = [neighbour.prompt for neighbour in plan(request).neighbours]

    assert sum("made by" in prompt for prompt in prompts) == 3  # all there are
    assert sum("city of" in prompt for prompt in prompts) == 7


def test_the_edit_is_said_aloud_before_its_neighbours():
    made = plan()

    for prefixed, neighbour in zip(made.prefixed_neighbours, made.neighbours, strict=True):
        assert prefixed.prompt == f"Space Needle is in the city of Paris. {neighbour.prompt}"
        assert prefixed.expected == neighbour.expected


def test_other_facts_of_the_subject_must_stay():
    made = plan()

    assert [(p.prompt, p.expected) for p in made.same_subject] == [
        ("Space Needle was made by", "Pentagram")
    ]


def test_a_subject_without_other_facts_is_said_to_have_none():
    made = plan(edit_request("Prado"))

    assert made.same_subject == ()
    assert "no other fact" in made.sources["same_subject"]


def test_fluency_prompts_name_the_subject():
    assert all("Space Needle" in prompt for prompt in plan().fluency)


def test_all_live_edits_in_conflict_and_a_sample_of_the_others_are_chosen():
    live = [EditId(f"e-{index}") for index in range(30)]
    conflicts = [(EditId("e-7"), 0.9), (EditId("e-3"), 0.11), (EditId("e-1"), 0.05)]
    chooser = planner(policy=Policy(live_edit_sample=5))

    chosen = chooser.choose_live(edit_request(), live, conflicts)

    assert chosen[:2] == ("e-7", "e-3")
    assert len(chosen) == len(set(chosen)) == 7
    assert chosen == chooser.choose_live(edit_request(), live[::-1], conflicts)


def test_fewer_live_edits_than_the_sample_are_all_chosen():
    live = [EditId("e-1"), EditId("e-2")]

    assert set(planner().choose_live(edit_request(), live, [])) == set(live)


def test_every_fact_of_a_chosen_live_edit_is_asked():
    live = [edit("e-1", "Louvre", "Rome"), edit("e-2", "Prado", "Berlin")]

    made = planner().with_live_facts(plan(), live, [(EditId("e-1"), 0.5)])

    assert [(f.edit, f.prompt.prompt, f.prompt.expected) for f in made.live_facts] == [
        ("e-1", "Louvre is in the city of", "Rome"),
        ("e-2", "Prado is in the city of", "Berlin"),
    ]
    assert made.sources["live_facts"] == "live edits: 1 in conflict, 1 drawn from the others"


def test_without_live_edits_the_plan_says_so():
    made = planner().with_live_facts(plan(), [], [])

    assert made.live_facts == ()
    assert made.sources["live_facts"] == "no other edit is live"


@pytest.mark.parametrize("text", ["", "No full stop in this text", "x" * 500 + ". y"])
def test_a_drift_text_makes_a_context_if_it_has_a_short_sentence(text):
    odd = replace(planner(), drift_texts=(text,))

    made = odd.plan(edit_request(), prefixes=("",), holds=each(on_base))

    contexts = {p.prompt.removesuffix("Space Needle is in the city of") for p in made.efficacy}
    assert contexts <= {"", "No full stop in this text. "}


def test_a_fact_template_of_the_request_itself_is_no_paraphrase():
    request = EditRequest(subject="Louvre", facts=(Fact(template=CITY[1], target="Rome"),))

    assert "Louvre can be found in" not in [p.prompt for p in plan(request).paraphrases]


def test_a_prompt_that_is_nearly_too_long_is_asked_without_more_before_it():
    made = plan(edit_request(template="word " * 395 + "{} is in"))

    assert len(made.efficacy) == 1
    assert made.prefixed_neighbours == ()
    assert len(made.neighbours) > 0
