"""What edits do to prose is told apart token by token."""

import dataclasses
import math

import pytest

from benchmarks.editing.firings import Firing, guards_of
from benchmarks.editing.methods import MethodName, opened
from benchmarks.editing.prose import Part, Reading, look_at_prose, tokens_of
from errata_server.engine.answers import perplexity
from errata_server.engine.runner import BASE
from tests.benchmarks.test_methods import case

TEXT = "The Louvre is in Paris. Paris is old, and the Louvre is near."


def reading(text: str = TEXT) -> Reading:
    """A token a word, without the space before it."""
    spans, at = [], 0
    for word in text.split(" "):
        spans.append((at, at + len(word)))
        at += len(word) + 1
    return Reading(text, spans)


def fired(token: int, subject: str = "Louvre") -> Firing:
    return Firing(text=0, token=token, subject=subject, match=1.0)


def parts(*firings: Firing, objects: dict[str, str]) -> list[Part]:
    return [part for part, _ in reading().parts(firings, objects)]


def test_only_what_was_edited_away_counts_as_told_and_only_behind_its_subject():
    found = parts(fired(1), objects={"Louvre": "Paris"})

    assert found[:5] == [Part.REST, Part.REST, Part.SUBJECT, Part.SUBJECT, Part.TOLD]
    assert set(found[5:]) == {Part.REST}  # another sentence, though it says Paris too


def test_another_object_of_the_subject_is_not_told():
    found = parts(fired(1), objects={"Louvre": "museum"})

    assert found[2:5] == [Part.SUBJECT] * 3


def test_an_edit_whose_subject_is_not_named_where_it_fires_is_false():
    found = parts(fired(3, "Inverness"), objects={"Inverness": "Paris"})

    assert found[4] is Part.FALSE
    assert Part.TOLD not in found


def test_what_was_told_stays_told_whatever_fires_behind_the_subject():
    found = parts(fired(1), fired(3, "Inverness"), objects={"Louvre": "Paris", "Inverness": "x"})

    assert found[2:5] == [Part.SUBJECT, Part.SUBJECT, Part.TOLD]


def test_an_abbreviation_ends_no_sentence():
    text = "The story of Ferragamo S.p.A. begins in Florence. It goes on."

    assert reading(text).sentence_end(4) == 8


@pytest.fixture
def told(bench):
    """The bench whose fixed texts state what is edited away, and the edit."""
    texts = dataclasses.replace(
        bench.texts, drift=("Louvre is in the city of Paris.", *bench.texts.drift)
    )
    return dataclasses.replace(bench, texts=texts), case()


def test_the_parts_add_up_to_the_rise_of_the_perplexity(told):
    bench, edit = told
    with opened(MethodName.ERRATA, bench) as method:
        method.edit([edit])
        with method.answering() as condition:
            guards = guards_of(bench, [edit], condition)
            figures, details = look_at_prose(guards, [edit], condition)
            tokens = list(tokens_of(guards, [edit], condition))
            after = perplexity(bench.runner, bench.texts.drift, condition.bank)

    before = perplexity(bench.runner, bench.texts.drift, BASE)
    rise = math.fsum(token.rise for token in tokens) / len(tokens)
    assert math.exp(rise) == pytest.approx(after / before, rel=1e-5)
    assert figures["told_tokens"] > 0
    assert figures["perplexity_ratio_untold"] < after / before
    assert sum(figures[f"rise_{part.value}"] for part in Part) == pytest.approx(100)
    assert details["told"][0]["subject"] == "Louvre"
