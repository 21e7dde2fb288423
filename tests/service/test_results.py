"""Stored results: canonical, named by their schema, and the same when read again."""

import json
import math
from dataclasses import replace

import pytest

from errata_server.domain import canonical
from errata_server.domain.crawls import Crawl, CrawlRequest
from errata_server.domain.errors import InvalidInputError, PreconditionError
from errata_server.domain.health import LiveVerification
from errata_server.domain.ids import Digest
from errata_server.domain.locators import LocateRequest, Location
from errata_server.domain.traces import (
    AverageTrace,
    CausalTrace,
    LabelledText,
    Metric,
    Proxy,
    ProxyQuestion,
    TraceKind,
    TraceRequest,
)
from errata_server.service import results
from tests.support import known_facts
from tests.support.scripted_traces import LOCATORS
from tests.support.services import PATIENCE, call

PROMPT = "Space Needle is in the city of"


def quiet(progress):
    pass


def request(**given):
    return TraceRequest(prompt=PROMPT, subject="Space Needle", **given)


@pytest.fixture
def found(services):
    """One result of each kind."""
    engine, weights = services.engine, services.serving.head().weights
    texts = [LabelledText(text=f"It was {word}", label=word) for word in ("good", "bad") * 4]
    proxy = engine.fit_proxy(
        texts, ProxyQuestion(words=()), weights, positive="good", seed=3, progress=quiet
    )
    asked = LocateRequest(
        locator=LOCATORS[0].name, prompt=PROMPT, subject="Space Needle", options={"words": 2.0}
    )
    return {
        CausalTrace: engine.trace(
            request(kinds=tuple(TraceKind), metric=Metric.PROXY, proxy=proxy),
            weights,
            progress=quiet,
        ),
        AverageTrace: engine.average_trace(
            [request(answer="Seattle"), request(answer="Oslo")], weights, progress=quiet
        ),
        Proxy: proxy,
        Location: engine.locate(asked, weights, known_facts=known_facts(), progress=quiet),
        LiveVerification: stored(services, services.upkeep.live_edits, verify_live(services)),
        Crawl: stored(services, services.upkeep.crawls, crawl(services)),
    }


def verify_live(services):
    services.apply(services.proposed())
    return services.upkeep.live_edits.verify(call())


def crawl(services):
    return services.upkeep.crawls.crawl(CrawlRequest(subject="Space Needle"), "", "", call())


def stored(services, use_case, operation):
    """What ``operation`` of ``use_case`` came to."""
    ended = services.operations.wait(operation.id, PATIENCE)
    return use_case.result(Digest(ended.result["artifact"]))


@pytest.mark.parametrize("kind", list(results.SCHEMAS))
def test_a_stored_result_is_read_as_it_was(found, kind):
    payload = results.encode(found[kind])

    assert results.decode(kind, payload) == found[kind]
    assert canonical.encode(canonical.decode(payload)) == payload
    assert json.loads(payload)["schema"] == results.SCHEMAS[kind]


def test_a_trace_without_a_proxy_is_read_as_it_was(services):
    trace = services.engine.trace(request(), services.serving.head().weights, progress=quiet)

    assert trace.proxy_labels == ()
    assert results.decode(CausalTrace, results.encode(trace)) == trace


def test_one_result_is_never_taken_for_another(found):
    payload = results.encode(found[AverageTrace])

    with pytest.raises(InvalidInputError, match="causal_trace"):
        results.decode(CausalTrace, payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00\xff no text",
        b"[]",
        b"null",
        b'{"schema":"errata.proxy/2"}',
        b'{"schema":"errata.proxy/1"}',
        b'{"schema":["errata.proxy/1"]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_result_is_refused(payload):
    with pytest.raises(InvalidInputError, match="errata.proxy/1"):
        results.decode(Proxy, payload)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_not_stored(found, value):
    with pytest.raises(PreconditionError, match="float32"):
        results.encode(replace(found[Proxy], intercept=value))
