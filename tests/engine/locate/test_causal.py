"""The one-pass schedule gives the numbers of whole forward passes, cell by cell."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.published_trace import PublishedTrace
from errata_server.domain.errors import (
    CancelledError,
    InvalidFactError,
    InvalidInputError,
    PromptTooLongError,
    SubjectNotFoundError,
)
from errata_server.domain.ids import Digest
from errata_server.domain.patches import Composition
from errata_server.domain.traces import (
    Corruption,
    Metric,
    Proxy,
    ProxyQuestion,
    TokenRole,
    TraceKind,
    TraceRequest,
)
from errata_server.engine.bank import compose
from errata_server.engine.locate.causal import Tracer
from errata_server.engine.locate.corruption import Sigma
from errata_server.engine.locate.proxy import proxy_prompt
from errata_server.engine.runner import BASE
from tests.support import tiny_models
from tests.support.tiny_models import CITIES

ALL = tuple(TraceKind)
SIGMA = Sigma(value=0.3, source="a test")
PROMPT = "They say it every day. Eiffel Tower is in the city of"
SUBJECT = "Eiffel Tower"


def silent(_):
    pass


def traced(deep, *, bank=BASE, progress=silent, **changes):
    fields: dict[str, Any] = {
        "prompt": PROMPT,
        "subject": SUBJECT,
        "answer": "Seattle",
        "kinds": ALL,
        "window": 3,
    } | changes
    tracer = Tracer(runner=deep, bank=bank, sigma=SIGMA)
    return tracer.trace(TraceRequest(**fields), progress=progress)


def published(deep, trace, *, replaced=(), answer=None, score=None):
    tokens = deep.tokens
    answer = tokens.target(trace.answer) if answer is None else answer
    positions = [index for index, token in enumerate(trace.tokens) if token.corrupted]
    draw = np.random.RandomState(trace.corruption.seed)
    shape = (trace.corruption.samples, len(positions), deep.model.config.hidden_size)
    return PublishedTrace(
        model=deep.checkpoint.model,
        family=deep.checkpoint.architecture.layout.value,
        layers=trace.layers,
        ids=[*tokens.encode(trace.prompt), *answer[:-1]],
        positions=positions,
        noise=torch.from_numpy(draw.randn(*shape) * trace.noise),
        answer=answer,
        window=trace.window,
        replaced=replaced,
        score=score,
    )


def largest_difference(trace, oracle):
    clean, corrupted = oracle.base()
    differences = [abs(trace.clean - clean), abs(trace.corrupted - float(corrupted.mean()))]
    for grid in trace.grids:
        for token in range(len(trace.tokens)):
            for layer in range(trace.layers):
                scores = oracle.cell(grid.kind.value, token, layer)
                differences.append(abs(grid.scores[token][layer] - float(scores.mean())))
                error = (scores - corrupted).double().std() / len(scores) ** 0.5
                differences.append(abs(grid.standard_errors[token][layer] - float(error)))
    return max(differences)


def test_every_cell_of_every_kind_equals_a_whole_forward_pass(deep):
    trace = traced(deep)

    assert abs(trace.total_effect) > 1e-4  # or the comparison shows little
    assert largest_difference(trace, published(deep, trace)) < 1e-5


@pytest.mark.parametrize("window", [1, 10])
def test_windows_narrow_and_wider_than_the_model_equal_whole_passes(deep, window):
    trace = traced(deep, window=window, kinds=(TraceKind.MLP, TraceKind.ATTN))

    assert largest_difference(trace, published(deep, trace)) < 1e-5


def test_an_answer_of_several_tokens_is_read_at_each_of_them(deep):
    trace = traced(deep, answer="Seattle tower", metric=Metric.LOG_PROBABILITY)
    oracle = published(deep, trace)

    assert trace.answer_tokens > 1
    oracle.score = lambda logits: oracle._probability(logits.double()).log()
    assert largest_difference(trace, oracle) < 1e-4  # logarithms of small numbers


def test_the_logit_difference_and_the_divergence_equal_whole_passes(deep):
    tokens = deep.tokens
    answer, foil = (tokens.target(word)[0] for word in ("Paris", "Rome"))
    difference = traced(deep, answer="Paris", foil="Rome", metric=Metric.LOGIT_DIFFERENCE)
    divergence = traced(deep, metric=Metric.KL)

    def gap(logits):
        return logits[:, -1, answer] - logits[:, -1, foil]

    def minus_kl(logits):
        scores = logits[:, -1].double().log_softmax(dim=-1)
        return -(scores[0].exp() * (scores[0] - scores)).sum(dim=-1)

    first = published(deep, difference, answer=[answer], score=gap)
    assert largest_difference(difference, first) < 1e-4  # logits are of the size of ten
    assert divergence.clean == pytest.approx(0, abs=1e-6)
    second = published(deep, divergence, answer=[answer], score=minus_kl)
    assert largest_difference(divergence, second) < 1e-5


def test_another_subject_in_its_place_equals_whole_passes(deep):
    length = len(deep.tokens.encode(PROMPT))
    every = {name: deep.tokens.encode(PROMPT.replace(SUBJECT, name)) for name in CITIES}
    others = [name for name, ids in every.items() if len(ids) == length and name != SUBJECT]
    assert len(others) > 1
    trace = traced(deep, corruption=Corruption(replacements=tuple(others)))

    assert (trace.noise, trace.noise_source) == (0, "")
    assert len(trace.corrupted_samples) == len(others)
    oracle = published(deep, trace, replaced=[every[name] for name in others])
    assert largest_difference(trace, oracle) < 1e-5


def test_live_edits_act_in_every_run(deep):
    patch = tiny_models.simple_patch(deep, SUBJECT, guard_width=0.99)
    bank = compose([patch], Composition.GUARDED, deep.device)
    trace = traced(deep, bank=bank)

    with bank.installed(deep.checkpoint.model):
        oracle = published(deep, trace)
        assert largest_difference(trace, oracle) < 1e-5
    assert trace.clean != traced(deep).clean


def test_less_memory_means_more_walks_and_the_same_numbers(deep):
    walks = {}

    def run(mib):
        seen = []
        trace = traced(deep, memory_mib=mib, progress=seen.append)
        assert seen[-1].done == seen[-1].total
        walks[mib] = seen[-1].total // trace.layers
        return trace

    little, much = run(1), run(256)

    assert walks[1] > walks[256] == 1
    for one, other in zip(little.grids, much.grids, strict=True):
        assert np.allclose(one.scores, other.scores, atol=1e-6)


def test_nothing_before_the_subject_has_an_effect_and_the_last_state_is_the_answer(deep):
    trace = traced(deep)

    for grid in trace.grids:
        for token, row in zip(trace.tokens, grid.scores, strict=True):
            if token.role is TokenRole.BEFORE:
                assert set(row) == {trace.corrupted}
    hidden = trace.grids[0]
    assert hidden.scores[-1][-1] == pytest.approx(trace.clean, rel=1e-5)
    assert trace.peak(hidden).effect >= trace.total_effect - 1e-6


def test_the_same_request_gives_the_same_numbers_and_another_seed_gives_others(deep):
    first, again = traced(deep), traced(deep)
    other = traced(deep, corruption=Corruption(seed=2))

    assert first.grids == again.grids
    assert first.corrupted_samples != other.corrupted_samples


def test_a_prompt_of_the_subject_alone_is_traced(deep):
    trace = traced(deep, prompt="Prado", subject="Prado", window=1)

    assert trace.tokens[-1].role is TokenRole.LAST_SUBJECT
    assert largest_difference(trace, published(deep, trace)) < 1e-5


def test_cancelling_ends_a_trace_within_one_walk(deep):
    seen = []

    def cancel(progress):
        seen.append(progress)
        if len(seen) == 2:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        traced(deep, progress=cancel)
    assert seen[-1].done < seen[-1].total


def test_a_walk_can_be_left_between_the_parts_of_a_layer(deep):
    seen = []
    trace = traced(deep, progress=seen.append)

    parts = sum(token.role is not TokenRole.BEFORE for token in trace.tokens)
    assert seen[-1].total == trace.layers
    assert [one.done for one in seen].count(0) >= parts


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"subject": "Atlantis"}, SubjectNotFoundError, "Atlantis"),
        ({"prompt": "Eiffel Tower " * 60}, PromptTooLongError, "shorten"),
        ({"answer": "<|endoftext|>"}, InvalidFactError, "special"),
        (
            {"corruption": Corruption(replacements=("Rome",))},
            InvalidInputError,
            "as many tokens",
        ),
        ({"corruption": Corruption(replacements=(SUBJECT,))}, InvalidInputError, "itself"),
        ({"foil": "Rome"}, InvalidInputError, "logit_difference"),
        (
            {"metric": Metric.LOGIT_DIFFERENCE, "answer": "Rome", "foil": "Rome"},
            InvalidInputError,
            "foil",
        ),
    ],
    ids=["absent", "too long", "special answer", "other length", "itself", "idle foil", "foil"],
)
def test_what_cannot_be_traced_is_refused_with_a_reason(deep, changes, error, words):
    with pytest.raises(error, match=words):
        traced(deep, **changes)


def test_doubtful_traces_carry_warnings(deep):
    twice = "Eiffel Tower is in Paris. Eiffel Tower is in the city of"
    trace = traced(deep, prompt=twice, window=10)

    assert any("names the subject 2 times" in warning for warning in trace.warnings)
    assert any("window of 10" in warning for warning in trace.warnings)
    assert any(f"not {trace.answer!r}" in warning for warning in trace.warnings)
    assert sum(token.corrupted for token in trace.tokens) % 2 == 0
    assert traced(deep, answer="", window=1).warnings == tuple(
        w for w in traced(deep, answer="", window=1).warnings if "takes" in w
    )


def test_a_corruption_that_raises_the_score_is_said_to(deep):
    cities = dict.fromkeys(CITIES.values())
    traces = [traced(deep, answer=city, kinds=(TraceKind.HIDDEN,)) for city in cities]

    assert {trace.total_effect < 0 for trace in traces} == {True, False}
    for trace in traces:
        said = any("effects below 0" in warning for warning in trace.warnings)
        assert said is (trace.total_effect < 0)


def test_a_proxys_probability_equals_whole_passes_and_its_suffix_stays_clean(deep):
    # The suffix holds the subject's word, and must be left alone.
    question = ProxyQuestion(suffix="Prado is in", words=("Rome", "Paris"))
    proxy = Proxy(
        question=question,
        labels=("south", "north"),
        coefficients=(-0.7, 0.4),
        intercept=0.1,
        train_texts=9,
        test_texts=3,
        train_accuracy=1.0,
        test_accuracy=1.0,
        majority_accuracy=0.5,
        seed=0,
        model_digest=Digest(""),
        weights_digest=Digest(""),
    )
    words = [deep.tokens.continuation(f" {word}")[0] for word in question.words]

    def score(logits):
        features = logits[:, -1].log_softmax(dim=-1)[:, words]
        return torch.sigmoid(features @ torch.tensor([-0.7, 0.4]) + 0.1)

    asked = {"answer": "", "metric": Metric.PROXY, "proxy": proxy}
    named = traced(deep, prompt="They say Prado is open.", subject="Prado", **asked)
    whole = traced(deep, prompt="Prado is open.", subject="", **asked)
    for trace in (named, whole):
        prompt = proxy_prompt(question, trace.prompt)
        oracle = published(deep, replace(trace, prompt=prompt), answer=[0], score=score)
        assert largest_difference(trace, oracle) < 1e-5
    hidden = deep.tokens.encode("Prado is open.")
    special = hidden[:1] == [1]  # Llama's BOS is no part of the text
    assert sum(token.corrupted for token in whole.tokens) == len(hidden) - special
    corrupted = [at for at, token in enumerate(named.tokens) if token.corrupted]
    assert corrupted == deep.tokens.mentions(named.prompt, "Prado")


def test_without_an_answer_the_models_own_next_token_is_read(deep):
    trace = traced(deep, answer="")

    ids = torch.tensor([deep.tokens.encode(PROMPT)])
    logits = deep.checkpoint.model(ids).logits[0, -1]
    assert trace.answer == trace.predicted == deep.tokens.decode([int(logits.argmax())]).strip()
    assert trace.clean == pytest.approx(float(logits.softmax(dim=0).max()), rel=1e-4)
