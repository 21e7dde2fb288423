"""What is asked of traces: defaults where nothing is said, complaints that name the field."""

import math

import pytest

from errata.v1 import traces_pb2 as pb
from errata_server.domain.errors import InvalidInputError, PromptTooLongError
from errata_server.domain.traces import Corruption, Metric, ProxyQuestion, TraceKind, TraceRequest
from errata_server.rpc.convert import locators, traces

PROMPT = "Space Needle is in the city of"
TEXTS = [pb.LabelledText(text=f"It was {label}", label=label) for label in ("good", "bad")]


def trace(**given):
    message = pb.TraceFactRequest(**{"prompt": PROMPT, "subject": "Space Needle"} | given)
    return traces.trace_request(message, proxy=None, memory_mib=64)


def fit(**given):
    return traces.proxy_request(pb.FitProxyRequest(**{"texts": TEXTS} | given))


def test_what_is_not_said_is_the_domains_default():
    assert trace() == TraceRequest(prompt=PROMPT, subject="Space Needle", memory_mib=64)


def test_everything_that_is_said_comes_through():
    corruption = pb.Corruption(scale=2, samples=4, seed=0, replacements=[" Big Ben "])
    found = trace(
        answer=" Seattle",
        foil="Paris",
        kinds=[pb.TRACE_KIND_SEVERED_ATTN, pb.TRACE_KIND_MLP],
        corruption=corruption,
        metric=pb.TRACE_METRIC_LOGIT_DIFFERENCE,
        window=1,
        memory_mib=9,
    )

    assert found == TraceRequest(
        prompt=PROMPT,
        subject="Space Needle",
        answer="Seattle",
        foil="Paris",
        kinds=(TraceKind.SEVERED_ATTN, TraceKind.MLP),
        corruption=Corruption(scale=2, samples=4, seed=0, replacements=("Big Ben",)),
        metric=Metric.LOGIT_DIFFERENCE,
        window=1,
        memory_mib=9,
    )


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " "}, "prompt"),
        ({"subject": ""}, "subject"),
        ({"subject": "x" * 2_001}, "subject"),
        ({"answer": "a\x00"}, "answer"),
        ({"foil": "x" * 2_001}, "foil"),
        ({"kinds": [0]}, "kinds[0]"),
        ({"kinds": [1, 77]}, "kinds[1]"),
        ({"kinds": [1, 1]}, "kinds"),
        ({"metric": 99}, "metric"),
        ({"metric": pb.TRACE_METRIC_PROXY}, "metric"),
        ({"window": 0}, "window"),
        ({"window": -1}, "window"),
        ({"window": 2**31 - 1}, "window"),
        ({"memory_mib": 0}, "memory_mib"),
        ({"memory_mib": -5}, "memory_mib"),
    ],
    ids=str,
)
def test_a_malformed_trace_names_its_field(given, field):
    with pytest.raises(InvalidInputError) as refused:
        trace(**given)

    assert refused.value.metadata["field"] == field


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"scale": 0}, "scale"),
        ({"scale": -1}, "scale"),
        ({"scale": math.nan}, "scale"),
        ({"scale": math.inf}, "scale"),
        ({"scale": 1e300}, "scale"),
        ({"samples": 0}, "samples"),
        ({"samples": -1}, "samples"),
        ({"samples": 2**31 - 1}, "samples"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63 - 1}, "seed"),
        ({"replacements": ["Big Ben", " "]}, "replacements[1]"),
        ({"replacements": ["x"] * 1_001}, "replacements"),
    ],
    ids=lambda given: str(given)[:40],
)
def test_a_malformed_corruption_names_its_field(given, field):
    with pytest.raises(InvalidInputError) as refused:
        trace(corruption=pb.Corruption(**given))

    assert refused.value.metadata["field"] == f"corruption.{field}"


def test_an_unknown_kind_or_metric_is_answered_with_those_there_are():
    with pytest.raises(InvalidInputError, match="hidden, mlp, attn, severed_mlp, severed_attn"):
        trace(kinds=[77])
    with pytest.raises(InvalidInputError, match="probability, log_probability"):
        trace(metric=77)


def test_a_prompt_beyond_any_context_is_refused_before_it_is_read():
    with pytest.raises(PromptTooLongError):
        trace(prompt="x" * 200_001)


@pytest.mark.parametrize(
    ("fact", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"subject": " "}, "subject"),
        ({"answer": "x" * 2_001}, "answer"),
    ],
)
def test_a_malformed_fact_is_named_by_its_place(fact, field):
    good = {"prompt": PROMPT, "subject": "Space Needle"}
    facts = [pb.TracedFact(**good), pb.TracedFact(**good | fact)]

    with pytest.raises(InvalidInputError) as refused:
        traces.average_request(pb.TraceFactsRequest(facts=facts), memory_mib=64)

    assert refused.value.metadata["field"] == f"facts[1].{field}"


def test_too_many_facts_are_refused_before_any_is_read():
    message = pb.TraceFactsRequest(facts=[pb.TracedFact()] * 10_001)

    with pytest.raises(InvalidInputError, match="at most 10000"):
        traces.average_request(message, memory_mib=64)


@pytest.mark.parametrize(
    ("given", "question"),
    [
        ({}, ProxyQuestion(suffix="I am feeling", words=("good", "bad"))),
        ({"suffix": ""}, ProxyQuestion(suffix="", words=("good", "bad"))),
        ({"suffix": " It was "}, ProxyQuestion(suffix="It was", words=("good", "bad"))),
        ({"words": ["fine"]}, ProxyQuestion(suffix="I am feeling", words=("fine",))),
        ({"hidden_state": True}, ProxyQuestion(suffix="I am feeling", words=())),
    ],
    ids=str,
)
def test_how_texts_are_read(given, question):
    assert fit(**given).question == question


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"texts": []}, "texts"),
        ({"texts": [*TEXTS, pb.LabelledText(text="", label="good")]}, "texts[2].text"),
        ({"texts": [*TEXTS, pb.LabelledText(text=" ", label="good")]}, "texts[2].text"),
        ({"texts": [*TEXTS, pb.LabelledText(text="x", label=" ")]}, "texts[2].label"),
        ({"texts": [*TEXTS, pb.LabelledText(text="x", label="y" * 201)]}, "texts[2].label"),
        ({"texts": TEXTS * 5_001}, "texts"),
        ({"suffix": "x" * 2_001}, "suffix"),
        ({"words": [""]}, "words[0]"),
        ({"words": ["good", "good "]}, "words"),
        ({"words": [str(number) for number in range(101)]}, "words"),
        ({"words": ["good"], "hidden_state": True}, "words"),
        ({"positive_label": "happy"}, "positive_label"),
        ({"seed": -1}, "seed"),
    ],
    ids=lambda given: str(given)[:60],
)
def test_a_malformed_fit_names_its_field(given, field):
    with pytest.raises(InvalidInputError) as refused:
        fit(**given)

    assert refused.value.metadata["field"] == field


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"subject": " "}, "subject"),
        ({"answer": "x" * 2_001}, "answer"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"texts": [" ", ""]}, "texts"),
        ({"texts": ["x"] * 10_001}, "texts"),
    ],
    ids=lambda given: str(given)[:60],
)
def test_a_malformed_question_to_a_locator_names_its_field(given, field):
    message = pb.LocateRequest(
        **{"locator": "logit_lens", "prompt": PROMPT, "subject": "Space Needle"} | given
    )

    with pytest.raises(InvalidInputError) as refused:
        locators.locate_request(message)

    assert refused.value.metadata["field"] == field
