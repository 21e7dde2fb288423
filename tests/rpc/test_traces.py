"""TraceService over the wire."""

import math

import grpc
import pytest
from google.longrunning import operations_pb2

from errata.v1 import traces_pb2 as pb
from errata.v1 import types_pb2
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from errata_server.rpc import operations
from tests.support.loopback import serving
from tests.support.tampering import tampering
from tests.support.wire import PARENT, Wire, failure

PROMPT = "Space Needle is in the city of"
TEXTS = [
    pb.LabelledText(text=f"It was {label} {number}", label=label)
    for number in range(4)
    for label in ("good", "bad")
]


def trace_request(**given):
    fields = {"parent": PARENT, "prompt": PROMPT, "subject": "Space Needle", "actor": "ana"}
    return pb.TraceFactRequest(**fields | given)


def fit_request(**given):
    return pb.FitProxyRequest(**{"parent": PARENT, "texts": TEXTS} | given)


def locate_request(**given):
    fields = {
        "parent": PARENT,
        "locator": "logit_lens",
        "prompt": PROMPT,
        "subject": "Space Needle",
    }
    return pb.LocateRequest(**fields | given)


def response(wire, operation, kind):
    found = kind()
    ended = wire.ended(operation)
    assert ended.response.Unpack(found), ended
    return found


def traced(wire, **given):
    started = wire.traces.TraceFact(trace_request(**given))
    return response(wire, started, pb.TraceFactResponse).trace


def fitted(wire, **given):
    started = wire.traces.FitProxy(fit_request(**given))
    return response(wire, started, pb.FitProxyResponse).proxy


def located(wire, **given):
    started = wire.traces.Locate(locate_request(**given))
    return response(wire, started, pb.LocateResponse).location


def kind_of(operation):
    found = types_pb2.OperationMetadata()
    assert operation.metadata.Unpack(found)
    return found.kind


def test_a_trace_has_a_score_for_every_token_and_layer(wire):
    trace = traced(wire, kinds=[pb.TRACE_KIND_MLP])

    assert [token.text for token in trace.tokens] == PROMPT.split()
    assert [token.corrupted for token in trace.tokens] == [True, True, *[False] * 5]
    assert trace.tokens[1].role == pb.TOKEN_ROLE_LAST_SUBJECT
    (grid,) = trace.grids
    assert grid.kind == pb.TRACE_KIND_MLP
    assert len(grid.scores) == len(grid.standard_errors) == len(trace.tokens) * trace.layers
    lost = trace.clean - trace.corrupted
    assert grid.scores[2:4] == pytest.approx(
        [trace.corrupted + 0.9 * lost, trace.corrupted + 0.2 * lost]
    )
    assert len(trace.corrupted_samples) == 10
    assert len(trace.digest) == 64


def test_a_trace_says_which_weights_it_was_taken_on(wire):
    before = traced(wire)
    applied = wire.applied(wire.proposed())
    after = traced(wire)

    assert (before.predicted, after.predicted) == ("Seattle", "Paris")
    assert after.provenance.served == applied.served
    assert traced(wire, revision="0").provenance == before.provenance


def test_what_is_not_said_is_told_in_the_result(wire):
    trace = traced(wire)

    assert [grid.kind for grid in trace.grids] == [1, 2, 3]
    assert trace.metric == pb.TRACE_METRIC_PROBABILITY
    assert trace.corruption == pb.Corruption(scale=3, samples=10, seed=1)
    assert (trace.window, trace.answer, trace.predicted) == (10, "Seattle", "Seattle")
    assert trace.noise_source == "scripted subjects"


def test_the_same_request_id_gives_the_same_operation(wire):
    first = wire.traces.TraceFact(trace_request(request_id="r-1"))
    second = wire.traces.TraceFact(trace_request(request_id="r-1"))
    refused = failure(lambda: wire.traces.TraceFact(trace_request(request_id="r-1", window=3)))

    assert first.name == second.name
    assert refused.reason == "REQUEST_ID_REUSED"


def test_an_average_has_a_curve_for_every_kind_and_role(wire):
    request = pb.TraceFactsRequest(parent=PARENT, limit=5)
    started = wire.traces.TraceFacts(request)

    average = response(wire, started, pb.TraceFactsResponse).average

    assert kind_of(started) == "average_trace"
    assert (average.facts, list(average.dropped)) == (5, [])
    roles = {curve.role for curve in average.curves}
    assert {pb.TOKEN_ROLE_LAST_SUBJECT, pb.TOKEN_ROLE_LAST} <= roles
    assert len(average.curves) == 3 * len(roles)
    assert all(len(curve.effects) == average.layers for curve in average.curves)
    assert all(
        low <= effect <= high
        for curve in average.curves
        for low, effect, high in zip(curve.low, curve.effects, curve.high, strict=True)
    )
    assert average.provenance.served.sequence == 0


def test_facts_of_the_callers_own_are_averaged(wire):
    facts = [
        pb.TracedFact(prompt=PROMPT, subject="Space Needle"),
        pb.TracedFact(prompt=PROMPT, subject="Space Needle", answer="Oslo"),
    ]
    started = wire.traces.TraceFacts(pb.TraceFactsRequest(parent=PARENT, facts=facts))

    average = response(wire, started, pb.TraceFactsResponse).average

    assert average.facts == 1
    assert [fact.prompt for fact in average.dropped] == [PROMPT]
    assert "Seattle" in average.dropped[0].reason


def test_a_fitted_proxy_is_traced_by_its_name(wire):
    proxy = fitted(wire, seed=3)
    trace = traced(wire, proxy=proxy.name, subject="")

    assert (proxy.negative_label, proxy.positive_label) == ("bad", "good")
    assert (proxy.suffix, list(proxy.words), proxy.features) == ("I am feeling", ["good", "bad"], 2)
    assert (proxy.train_texts, proxy.test_texts, proxy.seed) == (6, 2, 3)
    assert trace.metric == pb.TRACE_METRIC_PROXY
    assert list(trace.proxy_labels) == ["bad", "good"]
    assert all(token.corrupted for token in trace.tokens)


def test_a_proxy_may_read_the_hidden_state(wire):
    proxy = fitted(wire, hidden_state=True)

    assert (list(proxy.words), proxy.features) == ([], 4)


def test_a_proxy_is_the_metric(wire):
    request = trace_request(proxy=fitted(wire).name, metric=pb.TRACE_METRIC_KL)

    assert failure(lambda: wire.traces.TraceFact(request)).fields == ["metric"]


def test_a_location_has_its_charts_with_nan_for_nothing_to_say(wire):
    location = located(wire, options={"words": 2})

    assert location.locator.name == "logit_lens"
    assert location.locator.cannot_show
    assert dict(location.options) == {"words": 2}
    (chart,) = location.charts
    assert chart.form == pb.CHART_FORM_HEAT_MAP
    assert len(chart.values) == len(chart.rows) * len(chart.columns)
    assert chart.values[0] == 0.5
    assert math.isnan(chart.values[1])
    assert location.provenance.served.sequence == 0


def test_locators_are_listed_in_pages(wire):
    def page(token=""):
        request = pb.ListLocatorsRequest(parent=PARENT, page_size=1, page_token=token)
        return wire.traces.ListLocators(request)

    first = page()
    second = page(first.next_page_token)

    assert [locator.name for locator in first.locators] == ["attention_knockout"]
    assert [locator.name for locator in second.locators] == ["logit_lens"]
    assert second.next_page_token == ""
    (option,) = second.locators[0].options
    assert (option.name, option.default_value, option.minimum, option.maximum) == ("words", 1, 1, 5)


def test_a_long_list_of_operations_ends_before_it_is_too_large(wire, monkeypatch):
    monkeypatch.setattr(operations, "LARGEST_PAGE_BYTES", 1_000)
    names = [
        wire.ended(wire.traces.TraceFact(trace_request(window=window))).name
        for window in range(1, 4)
    ]
    listed, token = [], ""
    for _ in names:
        request = operations_pb2.ListOperationsRequest(page_token=token)
        page = wire.operations.ListOperations(request)
        listed += [operation.name for operation in page.operations]
        token = page.next_page_token
        assert len(page.operations) == 1

    assert listed == names[::-1]
    assert token == ""


def rewrite_operations(server, old, new):
    with tampering(server.ledger) as execute:
        changed = f"replace(CAST(body AS TEXT), '{old}', '{new}')"
        execute(f"UPDATE operations SET body = CAST({changed} AS BLOB)")


def of_another_schema(server):
    database = Database(server.ledger)
    try:
        return Ledger(database).put_artifact(b'{"schema":"errata.causal_trace/2"}')
    finally:
        database.close()


@pytest.mark.parametrize("newer", ["kind", "schema"])
def test_what_another_version_did_is_listed_without_its_result(server, wire, newer):
    trace = traced(wire)
    if newer == "kind":
        rewrite_operations(server, '"kind":"trace"', '"kind":"export_adapter"')
    else:
        rewrite_operations(server, trace.digest, of_another_schema(server))

    (listed,) = wire.operations.ListOperations(operations_pb2.ListOperationsRequest()).operations

    assert listed.done
    assert "another version of errata-server" in listed.error.message
    assert kind_of(listed) == ("other" if newer == "kind" else "trace")


def test_a_request_may_ask_for_no_more_memory_than_the_setting(tmp_path):
    with (
        serving(tmp_path, trace_memory_mib=32) as ready,
        grpc.insecure_channel(ready.address) as channel,
    ):
        wire = Wire(channel)
        refused = failure(lambda: wire.traces.TraceFact(trace_request(memory_mib=33)))
        assert traced(wire, memory_mib=32).predicted == traced(wire).predicted

    assert refused.fields == ["memory_mib"]
    assert refused.metadata["limit"] == "32"


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda w: w.traces.TraceFact(trace_request(parent="x")), "parent"),
        (lambda w: w.traces.TraceFact(trace_request(prompt="")), "prompt"),
        (lambda w: w.traces.TraceFact(trace_request(kinds=[9])), "kinds[0]"),
        (lambda w: w.traces.TraceFact(trace_request(proxy="x")), "proxy"),
        (lambda w: w.traces.TraceFact(trace_request(revision="a b")), "revision"),
        (lambda w: w.traces.TraceFact(trace_request(request_id="a b")), "request_id"),
        (lambda w: w.traces.TraceFacts(pb.TraceFactsRequest(parent=PARENT, limit=0)), "limit"),
        (lambda w: w.traces.FitProxy(fit_request(texts=[])), "texts"),
        (lambda w: w.traces.Locate(locate_request(options={"x": 1})), "options"),
        (
            lambda w: w.traces.ListLocators(pb.ListLocatorsRequest(parent=PARENT, page_size=-1)),
            "page_size",
        ),
        (
            lambda w: w.traces.ListLocators(pb.ListLocatorsRequest(parent=PARENT, page_token="x")),
            "page_token",
        ),
    ],
)
def test_a_malformed_request_names_the_field(wire, call, field):
    refused = failure(lambda: call(wire))

    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == [field]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda w: w.traces.TraceFact(trace_request(parent="models/other")), "MODEL_NOT_FOUND"),
        (lambda w: w.traces.FitProxy(fit_request(parent="models/other")), "MODEL_NOT_FOUND"),
        (
            lambda w: w.traces.TraceFact(trace_request(proxy="models/other/proxies/a")),
            "MODEL_NOT_FOUND",
        ),
        (
            lambda w: w.traces.TraceFact(trace_request(proxy=f"{PARENT}/proxies/{'0' * 64}")),
            "PROXY_NOT_FOUND",
        ),
        (lambda w: w.traces.TraceFact(trace_request(revision="77")), "REVISION_NOT_FOUND"),
        (lambda w: w.traces.Locate(locate_request(locator="granger")), "LOCATOR_NOT_FOUND"),
    ],
)
def test_what_does_not_exist_is_not_found(wire, call, reason):
    refused = failure(lambda: call(wire))

    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert refused.reason == reason


def test_a_trace_is_no_proxy(wire):
    digest = traced(wire).digest
    request = trace_request(proxy=f"{PARENT}/proxies/{digest}")

    assert failure(lambda: wire.traces.TraceFact(request)).fields == ["proxy"]
