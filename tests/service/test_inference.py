import math

import pytest

from errata_server.domain.errors import (
    InvalidInputError,
    PromptTooLongError,
    RevisionNotFoundError,
)
from errata_server.domain.generation import GenerationOptions

NEEDLE = "Space Needle is in the city of"


def said(chunks):
    return "".join(chunk.text for chunk in chunks).strip()


def test_a_reply_comes_from_one_revision_whatever_is_applied_meanwhile(services):
    edit = services.proposed()
    pinned, chunks = services.inference.generate(NEEDLE, GenerationOptions())
    first = next(chunks)

    services.apply(edit)

    assert (first.text + said(chunks)).strip().startswith("Seattle")
    assert pinned.revision.sequence == 0
    later, chunks = services.inference.generate(NEEDLE, GenerationOptions())
    assert later.revision.sequence == 1
    assert said(chunks).startswith("Paris")


def test_a_continuation_ends_where_it_was_told_to(services):
    _, chunks = services.inference.generate(NEEDLE, GenerationOptions(max_new_tokens=2))

    last = list(chunks)[-1]
    assert (last.tokens, last.finish_reason) == (2, "length")


def test_any_revision_answers(services):
    edit = services.proposed()
    services.apply(edit)

    for reference, answer in (("base", "Seattle"), ("0", "Seattle"), ("1", "Paris"), ("", "Paris")):
        _, chunks = services.inference.generate(NEEDLE, GenerationOptions(), reference)
        assert said(chunks).startswith(answer)


def test_scores_follow_the_revision(services):
    edit = services.proposed()
    services.apply(edit)

    _, now = services.inference.score(NEEDLE, ["Paris", "Seattle"])
    pinned, before = services.inference.score(NEEDLE, ["Paris", "Seattle"], "base")

    assert [score.is_greedy for score in now.scores] == [True, False]
    assert [score.is_greedy for score in before.scores] == [False, True]
    assert pinned.revision.sequence == 0


def test_reverting_gives_the_same_bits(services):
    _, before = services.inference.score(NEEDLE, ["Paris"])
    edit = services.proposed()
    services.apply(edit)
    _, applied = services.inference.score(NEEDLE, ["Paris"])
    services.revert(edit)
    _, after = services.inference.score(NEEDLE, ["Paris"])

    assert before.logits_digest == after.logits_digest != applied.logits_digest


@pytest.mark.parametrize(
    "options",
    [
        GenerationOptions(max_new_tokens=0),
        GenerationOptions(temperature=-1),
        GenerationOptions(temperature=math.nan),
        GenerationOptions(temperature=math.inf),
        GenerationOptions(top_k=-1),
    ],
)
def test_options_out_of_range_are_refused(services, options):
    with pytest.raises(InvalidInputError):
        services.inference.generate(NEEDLE, options)


def test_empty_texts_are_refused(services):
    with pytest.raises(InvalidInputError, match="prompt"):
        services.inference.generate("  ", GenerationOptions())
    with pytest.raises(InvalidInputError, match="prompt"):
        services.inference.score("", ["Paris"])
    with pytest.raises(InvalidInputError, match="continuation"):
        services.inference.score(NEEDLE, ["Paris", ""])


def test_a_prompt_that_does_not_fit_is_refused_before_the_first_token(services):
    with pytest.raises(PromptTooLongError):
        services.inference.generate("word " * 100, GenerationOptions())


def test_an_unknown_revision_is_refused(services):
    with pytest.raises(RevisionNotFoundError):
        services.inference.generate(NEEDLE, GenerationOptions(), "f" * 64)
