"""The table of locators: every row can be run on either family, and bad input is refused."""

import json
import math
from dataclasses import replace

import pytest

from errata_server.domain import canonical
from errata_server.domain.errors import (
    CancelledError,
    InvalidInputError,
    LocatorNotFoundError,
    PromptTooLongError,
    SubjectNotFoundError,
)
from errata_server.domain.locators import LocateRequest
from errata_server.engine.locate.table import ROWS, Means, locate, locators
from errata_server.engine.runner import BASE
from tests.support import tiny_models
from tests.support.locating import KNOWN_CITIES, PROMPT, SUBJECT, silent

TEXTS = (*tiny_models.PROSE, *tiny_models.sentences())
OBSERVATIONAL = (
    "attributes",
    "granger",
    "knockout",
    "knowledge_neurons",
    "logit_lens",
    "tuned_lens",
)
QUICK = {"tuned_lens": {"steps": 2}, "knowledge_neurons": {"steps": 3}}


def asked(runner, locator, *, bank=BASE, progress=silent, **changes):
    fields = {"prompt": PROMPT, "subject": SUBJECT, "options": QUICK.get(locator, {})} | changes
    means = Means(texts=TEXTS, known_facts=KNOWN_CITIES)
    request = LocateRequest(locator=locator, **fields)
    return locate(runner, bank, request, means=means, progress=progress)


@pytest.mark.parametrize("name", OBSERVATIONAL)
def test_every_chart_is_as_wide_and_as_high_as_it_says_and_can_be_stored(either, name):
    location = asked(either, name)

    assert location.charts
    for chart in location.charts:
        assert len(chart.values) == len(chart.rows)
        assert {len(row) for row in chart.values} <= {len(chart.columns)}
        cells = [cell for row in chart.values for cell in row if cell is not None]
        assert all(math.isfinite(cell) for cell in cells)
    assert all(math.isfinite(value) for value in location.figures.values())
    stored = canonical.encode({"figures": dict(location.figures), "charts": len(location.charts)})
    assert json.loads(stored)["charts"] == len(location.charts)


@pytest.mark.parametrize("name", OBSERVATIONAL)
def test_every_locator_reports_as_many_steps_as_it_announces(either, name):
    seen = []

    asked(either, name, progress=seen.append, seed=77)

    for stage in {one.stage for one in seen}:
        of_stage = [one for one in seen if one.stage == stage]
        assert [one.done for one in of_stage] == list(range(1, len(of_stage) + 1))
        assert {one.total for one in of_stage} == {len(of_stage)}


@pytest.mark.parametrize("name", OBSERVATIONAL)
def test_every_locator_stops_when_it_is_cancelled(gpt2, name):
    def cancel(_):
        raise CancelledError("enough")

    with pytest.raises(CancelledError):
        asked(gpt2, name, progress=cancel, seed=78)


def test_every_row_says_what_it_shows_what_it_cannot_and_where_it_is_from():
    for name, row in ROWS.items():
        locator = row.locator
        assert locator.name == name
        assert min(len(locator.shows), len(locator.cannot_show), len(locator.source)) > 20
        for option in locator.options:
            assert option.minimum <= option.default <= option.maximum
    assert [locator.name for locator in locators()] == sorted(ROWS)
    assert set(OBSERVATIONAL) <= set(ROWS)


def test_an_unknown_locator_is_refused_with_the_known_ones(gpt2):
    with pytest.raises(LocatorNotFoundError, match="knockout, knowledge_neurons") as refused:
        asked(gpt2, "crystal_ball")

    assert refused.value.metadata == {"locator": "crystal_ball"}


@pytest.mark.parametrize(("options", "said"), [({"windows": 3}, "window"), ({"window": 0}, "1")])
def test_an_option_that_is_unknown_or_out_of_range_is_refused(gpt2, options, said):
    with pytest.raises(InvalidInputError, match=said) as refused:
        asked(gpt2, "knockout", options=options)

    assert refused.value.metadata["field"] == "options"


def test_a_prompt_without_the_subject_is_refused(gpt2):
    with pytest.raises(SubjectNotFoundError, match="does not name"):
        asked(gpt2, "logit_lens", subject="Colosseum")


def test_a_prompt_over_the_context_is_refused(gpt2):
    long = f"{SUBJECT} " * tiny_models.CONTEXT

    with pytest.raises(PromptTooLongError):
        asked(gpt2, "logit_lens", prompt=long)


def test_an_answer_that_does_not_fit_behind_the_prompt_is_refused(gpt2):
    full = tiny_models.CONTEXT - len(gpt2.tokens.encode(f"{SUBJECT} is"))
    prompt = f"{SUBJECT} is" + " is" * full
    assert len(gpt2.tokens.encode(prompt)) == tiny_models.CONTEXT
    asked(gpt2, "logit_lens", prompt=prompt)

    with pytest.raises(PromptTooLongError):
        asked(gpt2, "logit_lens", prompt=prompt, answer="Paris")


def test_without_an_answer_it_is_the_models_own_next_token(trained):
    location = asked(trained, "logit_lens")

    assert location.answer == location.predicted == "Paris"
    assert location.warnings == ()
    assert "".join(location.tokens) == PROMPT


def test_an_answer_the_model_does_not_give_is_located_with_a_warning(trained):
    location = asked(trained, "logit_lens", answer="Berlin")

    assert (location.answer, location.predicted) == ("Berlin", "Paris")
    assert "does not predict 'Berlin' here but 'Paris'" in location.warnings[0]


def test_every_mention_of_the_subject_counts(gpt2):
    from tests.support.locating import case

    twice = case(gpt2, prompt="Big Ben, they say, is Big Ben in", subject="Big Ben")

    pieces = [gpt2.tokens.piece(twice.ids[at]) for at in twice.subject_positions]
    assert "".join(pieces) == "Big Ben Big Ben"
    assert twice.subject_end == twice.subject_positions[-1]


def test_a_result_says_what_it_was_taken_on(gpt2):
    location = asked(gpt2, "logit_lens")

    provenance = location.provenance
    assert provenance.model_digest == gpt2.checkpoint.digest
    assert provenance.weights_digest == BASE.digest()
    assert provenance.seconds > 0
    assert location.request.prompt == PROMPT


def test_texts_of_the_request_take_the_place_of_the_servers(gpt2):
    with pytest.raises(InvalidInputError, match="at least two"):
        asked(gpt2, "tuned_lens", texts=("one text",))


def test_a_models_own_texts_are_used_where_none_are_given(gpt2):
    assert asked(gpt2, "tuned_lens").figures["held_out_tokens"] > 20


def test_equal_requests_have_equal_results(gpt2):
    def without_time(location):
        return replace(location, provenance=replace(location.provenance, seconds=0.0))

    for name in OBSERVATIONAL:
        once, again = (without_time(asked(gpt2, name)) for _ in range(2))
        assert once == again
