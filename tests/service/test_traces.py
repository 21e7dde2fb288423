"""Traces, proxies and locators as operations: pinned to a revision, stored, repeatable."""

from dataclasses import replace
from typing import Any

import pytest

from errata_server import telemetry
from errata_server.domain import canonical
from errata_server.domain.errors import (
    InvalidInputError,
    LocatorNotFoundError,
    ModelMismatchError,
    ProxyNotFoundError,
    RequestIdReusedError,
    RevisionNotFoundError,
    SubjectNotFoundError,
)
from errata_server.domain.ids import Digest
from errata_server.domain.known_facts import NO_KNOWN_FACTS
from errata_server.domain.locators import LocateRequest, Location
from errata_server.domain.operations import OperationState
from errata_server.domain.traces import (
    AverageTrace,
    CausalTrace,
    Corruption,
    LabelledText,
    Metric,
    Proxy,
    ProxyQuestion,
    TraceKind,
    TraceRequest,
)
from errata_server.service import results
from errata_server.service.trace_requests import AverageRequest, ProxyRequest, TracedFact
from tests.support.logs import captured_log
from tests.support.services import PATIENCE, TRACE_MEMORY_MIB, call, open_services

PROMPT = "Space Needle is in the city of"
TEXTS = tuple(
    LabelledText(text=f"It was {word} {number}", label=label)
    for number in range(3)
    for word, label in (("fine", "positive"), ("poor", "negative"))
)


def request(prompt=PROMPT, subject="Space Needle", **given):
    return TraceRequest(
        **{"prompt": prompt, "subject": subject, "memory_mib": TRACE_MEMORY_MIB} | given
    )


def average(facts=(), limit=None, **given):
    settings: dict[str, Any] = {
        "kinds": (TraceKind.HIDDEN,),
        "corruption": Corruption(),
        "metric": Metric.PROBABILITY,
        "window": 10,
        "memory_mib": TRACE_MEMORY_MIB,
    }
    return AverageRequest(facts=tuple(facts), limit=limit, **settings | given)


def proxy_request(**given):
    fields: dict[str, Any] = {"texts": TEXTS, "question": ProxyQuestion()}
    return ProxyRequest(**fields | given)


def located(**given):
    fields = {"locator": "logit_lens", "prompt": PROMPT, "subject": "Space Needle"}
    return LocateRequest(**fields | given)


def ended(services, operation):
    found = services.operations.wait(operation.id, PATIENCE)
    assert found.state is OperationState.SUCCEEDED, found.failure
    return found


def stored(services, kind, operation):
    digest = ended(services, operation).result["artifact"]
    return services.traces.result(kind, Digest(digest))


def traced(services, asked=None, reference=""):
    return stored(
        services, CausalTrace, services.traces.trace(asked or request(), reference, call())
    )


def fitted(services, reference="", **given):
    operation = services.traces.fit_proxy(proxy_request(**given), reference, call())
    return Digest(ended(services, operation).result["artifact"])


def test_a_trace_is_stored_and_says_which_revision_it_was_taken_at(services):
    head = services.apply(services.proposed())

    trace = traced(services)

    assert trace.prompt == PROMPT
    assert trace.predicted == "Paris"
    provenance = trace.provenance
    assert (provenance.revision, provenance.sequence) == (head.id, 1)
    assert (provenance.branch, provenance.weights_digest) == ("main", head.weights_digest)


def test_an_older_revision_is_traced_on_its_own_weights(services):
    services.apply(services.proposed())

    trace = traced(services, reference="base")

    assert (trace.predicted, trace.provenance.sequence) == ("Seattle", 0)


def test_a_revision_committed_meanwhile_does_not_reach_into_a_trace(services):
    edit = services.proposed()
    services.engine.interludes["trace"] = lambda: services.apply(edit)

    trace = traced(services)

    assert (trace.predicted, trace.provenance.sequence) == ("Seattle", 0)
    assert services.serving.head().revision.sequence == 1


def test_a_trace_that_had_to_wait_is_of_the_revision_it_was_asked_at(services):
    edit = services.proposed()
    services.engine.resume.clear()
    for _ in range(2):  # as many as run at a time
        services.traces.fit_proxy(proxy_request(), "", call())
    waiting = {
        CausalTrace: services.traces.trace(request(), "", call()),
        AverageTrace: services.traces.average(average(limit=2), "", call()),
        Location: services.traces.locate(located(), "", call()),
    }
    head = services.apply(edit)

    services.engine.resume.set()

    for kind, operation in waiting.items():
        found = stored(services, kind, operation)
        assert (found.provenance.sequence, head.sequence) == (0, 1)
        assert found.provenance.weights_digest != head.weights_digest


def test_the_same_question_has_the_same_artifact(services):
    first, second = (services.traces.trace(request(), "", call()) for _ in range(2))

    assert ended(services, first).result == ended(services, second).result


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "The Space Needle is in the city of"},
        {"subject": "Needle"},
        {"answer": "Seattle"},
        {"metric": Metric.LOGIT_DIFFERENCE, "foil": "Paris"},
        {"kinds": (TraceKind.HIDDEN,)},
        {"corruption": Corruption(scale=2)},
        {"corruption": Corruption(samples=9)},
        {"corruption": Corruption(seed=2)},
        {"corruption": Corruption(replacements=("Big Ben",))},
        {"metric": Metric.KL},
        {"window": 9},
        {"memory_mib": 1},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_request_id_stands_for_every_field(services, other):
    started = services.traces.trace(request(), "", call("r-1"))

    assert services.traces.trace(request(), "", call("r-1")).id == started.id
    with pytest.raises(RequestIdReusedError):
        services.traces.trace(request(**other), "", call("r-1"))
    with pytest.raises(RequestIdReusedError):
        services.traces.trace(request(), "base", call("r-1"))


def test_a_trace_may_take_no_more_memory_than_the_server_gives(services):
    with pytest.raises(InvalidInputError, match=f"at most {TRACE_MEMORY_MIB}") as refused:
        services.traces.trace(request(memory_mib=TRACE_MEMORY_MIB + 1), "", call())
    with pytest.raises(InvalidInputError, match=f"at most {TRACE_MEMORY_MIB}"):
        services.traces.average(average(memory_mib=TRACE_MEMORY_MIB + 1), "", call())

    assert refused.value.metadata["field"] == "memory_mib"


def test_an_unknown_revision_starts_nothing(services):
    with pytest.raises(RevisionNotFoundError):
        services.traces.trace(request(), "9", call())

    assert not services.operations.list().items


def test_what_only_the_model_can_tell_ends_the_operation(services):
    operation = services.traces.trace(request(subject="Louvre"), "", call())

    found = services.operations.wait(operation.id, PATIENCE)

    assert found.state is OperationState.FAILED
    assert found.failure.reason == SubjectNotFoundError.reason


@pytest.mark.parametrize("method", ["trace", "average_trace", "fit_proxy", "locate"])
def test_every_kind_shows_progress_and_can_be_cancelled(services, method):
    start = {
        "trace": lambda: services.traces.trace(request(), "", call()),
        "average_trace": lambda: services.traces.average(average(), "", call()),
        "fit_proxy": lambda: services.traces.fit_proxy(proxy_request(), "", call()),
        "locate": lambda: services.traces.locate(located(), "", call()),
    }
    services.engine.resume.clear()
    operation = start[method]()
    assert services.engine.reached.wait(PATIENCE)

    running = services.operations.get(operation.id)
    services.operations.cancel(operation.id)

    assert (running.kind, running.progress.done, running.progress.total) == (method, 1, 3)
    assert services.operations.wait(operation.id, PATIENCE).state is OperationState.CANCELLED


def test_a_trace_that_broke_leaves_no_prompt_in_the_log(services):
    services.engine.breaks["trace"] = RuntimeError(f"no rule for {PROMPT!r} and Space Needle")

    with captured_log() as log:
        operation = services.traces.trace(request(), "", call())
        found = services.operations.wait(operation.id, PATIENCE)

    assert found.failure.reason == "INTERNAL"
    assert "no rule for" in str(log())
    assert "Space Needle" not in str(log())


def test_the_time_of_a_trace_is_a_metric_of_its_kind(services):
    def count():
        labels = {"stage": "trace"}
        return telemetry.REGISTRY.get_sample_value("errata_stage_seconds_count", labels) or 0

    before = count()
    traced(services)

    assert count() == before + 1


def test_a_ledger_with_traces_passes_its_audit(services):
    traced(services)
    fitted(services)

    assert services.history.audit().clean


# Averages ---------------------------------------------------------------------------------


def averaged(services, asked):
    return stored(services, AverageTrace, services.traces.average(asked, "", call()))


def test_an_average_names_the_facts_it_dropped(services):
    facts = [
        TracedFact(prompt=PROMPT, subject="Space Needle", answer="Seattle"),
        TracedFact(prompt="Louvre is in the city of", subject="Louvre", answer="Oslo"),
        TracedFact(prompt="Prado is in the city of", subject="Prado"),
    ]

    found = averaged(services, average(facts))

    assert found.facts == 2
    assert [dropped.prompt for dropped in found.dropped] == ["Louvre is in the city of"]
    assert found.provenance.revision == services.serving.head().revision.id


def test_without_facts_the_servers_known_facts_are_drawn_by_the_seed(services):
    known = services.traces.known_facts
    drawn = {
        seed: average(limit=5, corruption=Corruption(seed=seed)).traces(known) for seed in (1, 2)
    }

    assert drawn[1] == average(limit=5).traces(known)
    assert drawn[1] != drawn[2]
    facts = {(known.prompt(fact), fact.subject, fact.object) for fact in known.facts}
    assert {(r.prompt, r.subject, r.answer) for r in drawn[1]} <= facts
    assert len({r.prompt for r in drawn[1]}) == 5


def test_no_more_known_facts_are_drawn_than_there_are(services):
    assert averaged(services, average(limit=10_000)).facts == len(services.traces.known_facts.facts)


def test_a_server_without_known_facts_asks_for_some(services):
    without = replace(services.traces, known_facts=NO_KNOWN_FACTS)

    with pytest.raises(InvalidInputError, match="no known facts"):
        without.average(average(), "", call())


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": -1}, "limit"),
        ({"limit": 10_001}, "limit"),
        ({"facts": [TracedFact(prompt=PROMPT, subject="x")], "limit": 3}, "limit"),
        ({"facts": [TracedFact(prompt=PROMPT, subject="x")] * 10_001}, "facts"),
        ({"metric": Metric.PROXY}, "metric"),
        ({"kinds": ()}, "kinds"),
        ({"kinds": (TraceKind.MLP, TraceKind.MLP)}, "kinds"),
        ({"window": 0}, "window"),
        ({"memory_mib": 0}, "memory_mib"),
    ],
    ids=str,
)
def test_a_malformed_average_starts_nothing(services, given, field):
    with pytest.raises(InvalidInputError) as refused:
        services.traces.average(average(**given), "", call())

    assert refused.value.metadata["field"] == field
    assert not services.operations.list().items


@pytest.mark.parametrize("fact", [{"prompt": " "}, {"subject": ""}])
def test_a_fact_without_words_is_refused(fact):
    with pytest.raises(InvalidInputError, match="empty"):
        TracedFact(**{"prompt": PROMPT, "subject": "x"} | fact)


def test_an_averages_request_id_stands_for_its_facts(services):
    services.traces.average(average(limit=3), "", call("r-1"))

    for other in (average(limit=4), average(), average(limit=3, corruption=Corruption(seed=2))):
        with pytest.raises(RequestIdReusedError):
            services.traces.average(other, "", call("r-1"))


# Proxies ----------------------------------------------------------------------------------


def test_a_fitted_proxy_can_be_traced(services):
    proxy = services.traces.proxy(fitted(services))

    trace = traced(services, request(metric=Metric.PROXY, proxy=proxy))

    assert trace.proxy_labels == ("negative", "positive")
    assert trace.warnings == ()


def test_a_proxy_of_other_weights_is_traced_with_a_warning(services):
    proxy = services.traces.proxy(fitted(services))
    services.apply(services.proposed())

    (warning,) = traced(services, request(metric=Metric.PROXY, proxy=proxy)).warnings

    assert proxy.weights_digest[:12] in warning
    assert services.serving.head().weights.digest[:12] in warning


def test_an_unknown_proxy_is_not_found(services):
    with pytest.raises(ProxyNotFoundError):
        services.traces.proxy(Digest("0" * 64))


@pytest.mark.parametrize("kind", ["patch", "trace"])
def test_another_artifact_is_no_proxy(services, kind):
    if kind == "patch":
        digest = services.proposed().patch
    else:
        operation = services.traces.trace(request(), "", call())
        digest = Digest(ended(services, operation).result["artifact"])

    with pytest.raises(InvalidInputError, match="no proxy") as refused:
        services.traces.proxy(digest)

    assert refused.value.metadata["field"] == "proxy"


def test_a_proxy_of_another_model_does_not_fit(services):
    proxy = services.traces.result(Proxy, fitted(services))
    foreign = replace(proxy, model_digest=canonical.digest(b"another"))
    digest = services.ledger.put_artifact(results.encode(foreign))

    with pytest.raises(ModelMismatchError, match="fit it again"):
        services.traces.proxy(digest)


@pytest.mark.parametrize(
    ("words", "labels", "given", "positive"),
    [
        (("good", "bad"), ("good", "bad"), "", "good"),
        (("good", "bad"), ("good", "bad"), "bad", "bad"),
        (("good", "bad"), ("negative", "positive"), "", "positive"),
        (("bad", "good"), ("bad", "fine"), "", "bad"),
        ((), ("bad", "fine"), "", "fine"),
    ],
)
def test_the_positive_label_is_the_first_words_else_the_last_in_the_alphabet(
    words, labels, given, positive
):
    texts = tuple(LabelledText(text="x", label=label) for label in labels)

    found = proxy_request(texts=texts, question=ProxyQuestion(words=words), positive=given)

    assert found.positive == positive


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"texts": ()}, "texts"),
        ({"texts": TEXTS[:1]}, "texts"),
        ({"texts": (*TEXTS, LabelledText(text="x", label="third"))}, "texts"),
        ({"texts": TEXTS * 2_000}, "texts"),
        ({"positive": "happy"}, "positive_label"),
        ({"question": ProxyQuestion(words=("good", "good"))}, "words"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
    ],
    ids=str,
)
def test_a_malformed_fit_is_refused(given, field):
    with pytest.raises(InvalidInputError) as refused:
        proxy_request(**given)

    assert refused.value.metadata["field"] == field


# Locators ---------------------------------------------------------------------------------


def test_locators_are_listed_by_name_in_pages(services):
    first = services.traces.locators(page_size=1)
    second = services.traces.locators(page_size=1, page_token=first.next_token)

    assert [locator.name for locator in first.items] == ["attention_knockout"]
    assert [locator.name for locator in second.items] == ["logit_lens"]
    assert second.next_token == ""


def test_a_location_says_with_which_options_it_was_found(services):
    services.apply(services.proposed())

    found = stored(services, Location, services.traces.locate(located(), "", call()))

    assert found.request.options == {"words": 1}
    assert found.figures["known_facts"] == len(services.traces.known_facts.facts)
    assert (found.predicted, found.provenance.sequence) == ("Paris", 1)
    assert found.charts[0].values[0] == (0.5, None)


@pytest.mark.parametrize("options", [{"depth": 1.0}, {"words": 9.0}, {"words": float("nan")}])
def test_an_option_that_does_not_fit_starts_nothing(services, options):
    with pytest.raises(InvalidInputError) as refused:
        services.traces.locate(located(options=options), "", call())

    assert refused.value.metadata["field"] == "options"
    assert not services.operations.list().items


def test_an_unknown_locator_names_those_there_are(services):
    with pytest.raises(LocatorNotFoundError, match="attention_knockout, logit_lens"):
        services.traces.locate(located(locator="granger"), "", call())


# After a restart --------------------------------------------------------------------------


def test_a_result_outlives_the_server(url):
    with open_services(url) as services:
        operation = ended(services, services.traces.trace(request(), "", call()))
        trace = services.traces.result(CausalTrace, Digest(operation.result["artifact"]))

    with open_services(url) as services:
        again = services.operations.get(operation.id)
        assert services.traces.result(CausalTrace, Digest(again.result["artifact"])) == trace
