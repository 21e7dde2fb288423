"""CounterFact and zsRE records in their published shapes, written here."""

import json

import pytest

from benchmarks.editing.formats import read_cases
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.facts import CheckPrompt

COUNTERFACT = {
    "case_id": 7,
    "pararel_idx": 512,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Colette Arnaud",
    },
    "paraphrase_prompts": ["It rained all day. Colette Arnaud, a native", "Colette Arnaud spoke"],
    "neighborhood_prompts": ["The mother tongue of Henri Blanc is", "Henri Blanc spoke"],
    "attribute_prompts": ["The mother tongue of Jane Smith is"],
    "generation_prompts": ["Colette Arnaud was born in"],
}
ZSRE = {
    "subject": "Otto Lang",
    "src": "What university did Otto Lang take part in?",
    "pred": "",
    "rephrase": "Which university did Otto Lang attend?",
    "alt": "University of Graz",
    "answers": ["University of Vienna", "Vienna"],
    "loc": "nq question: who wrote the song of the river",
    "loc_ans": "Ada Berg",
    "cond": "Trinity >> University of Graz || What university did Otto Lang take part in?",
}


def written(folder, records):
    path = folder / "facts.json"
    path.write_text(records if isinstance(records, str) else json.dumps(records), "utf-8")
    return path


def test_a_counterfact_record_becomes_a_case(tmp_path):
    (case,) = read_cases(written(tmp_path, [COUNTERFACT]))

    assert case.request.subject == "Colette Arnaud"
    assert (case.target, case.true) == ("English", "French")
    assert case.efficacy == CheckPrompt(
        prompt="The mother tongue of Colette Arnaud is", expected="English"
    )
    assert [p.prompt for p in case.paraphrases] == COUNTERFACT["paraphrase_prompts"]
    assert {p.expected for p in case.paraphrases} == {"English"}
    assert [p.prompt for p in case.neighbours] == COUNTERFACT["neighborhood_prompts"]
    assert {p.expected for p in case.neighbours} == {"French"}


def test_counterfact_plus_puts_the_edit_before_every_neighbour(tmp_path):
    (case,) = read_cases(written(tmp_path, [COUNTERFACT]))

    assert [p.prompt for p in case.prefixed_neighbours] == [
        "The mother tongue of Colette Arnaud is English. The mother tongue of Henri Blanc is",
        "The mother tongue of Colette Arnaud is English. Henri Blanc spoke",
    ]


def test_a_zsre_record_is_edited_to_its_first_answer(tmp_path):
    (case,) = read_cases(written(tmp_path, [ZSRE]))

    assert case.request.facts[0].template == "What university did {} take part in?"
    assert (case.target, case.true) == ("University of Vienna", "")
    assert case.paraphrases == (
        CheckPrompt(
            prompt="Which university did Otto Lang attend?", expected="University of Vienna"
        ),
    )
    assert case.neighbours == (
        CheckPrompt(prompt="who wrote the song of the river?", expected="Ada Berg"),
    )


def test_records_keep_the_files_order(tmp_path):
    cases = read_cases(written(tmp_path, [ZSRE, COUNTERFACT]))

    assert [case.request.subject for case in cases] == ["Otto Lang", "Colette Arnaud"]


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ("not json", "cannot read"),
        ("{}", "no JSON list"),
        ("[]", "no JSON list"),
        ([COUNTERFACT, {"prompt": "?"}], "record 1 .* neither CounterFact's"),
        ([5], "record 0 .* neither"),
        ([COUNTERFACT | {"requested_rewrite": {}}], "record 0 .* malformed: KeyError"),
        ([COUNTERFACT | {"paraphrase_prompts": 5}], "record 0 .* malformed"),
        ([ZSRE | {"answers": []}], "record 0 .* malformed: IndexError"),
        ([ZSRE | {"subject": "Nobody"}], "record 0 .* names the subject 'Nobody' 0 times"),
    ],
)
def test_a_file_that_is_neither_is_refused_with_the_place(tmp_path, records, said):
    with pytest.raises(InvalidInputError, match=said):
        read_cases(written(tmp_path, records))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match="none.json"):
        read_cases(tmp_path / "none.json")
