"""What is read of traces and locators, and what is sent for them."""

import math
from typing import Any

import pytest
from google.longrunning import operations_pb2

import errata
from errata import _operation_status, _trace_calls, _trace_messages
from errata._call_types import Scope
from errata.v1 import traces_pb2
from errata_server.domain import locators, traces

SCOPE = Scope(model="models/m", actor="ana")


def sent(call):
    return call.request(SCOPE)


def test_the_enums_have_the_server_s_members():
    pairs = [
        (errata.TraceKind, traces.TraceKind),
        (errata.TraceMetric, traces.Metric),
        (errata.TokenRole, traces.TokenRole),
        (errata.ChartForm, locators.ChartForm),
    ]

    for ours, theirs in pairs:
        assert {str(m) for m in ours} == {str(m) for m in theirs} | {"unspecified"}


def test_every_kind_and_metric_is_read_and_written_back_the_same():
    for number in {*traces_pb2.TraceKind.values()} - {traces_pb2.TRACE_KIND_UNSPECIFIED}:
        assert _trace_messages.kind_message(_trace_messages.KINDS[number]) == number
    for wire in {*traces_pb2.TraceMetric.values()} - {traces_pb2.TRACE_METRIC_UNSPECIFIED}:
        assert _trace_messages.metric_message(_trace_messages.METRICS[wire]) == wire


def causal_trace(**fields):
    grid = traces_pb2.TraceGrid(
        kind=traces_pb2.TRACE_KIND_MLP, scores=[1, 2, 3, 4, 5, 6], standard_errors=[0.1] * 6
    )
    tokens = [
        traces_pb2.TracedToken(text="a", role=traces_pb2.TOKEN_ROLE_LAST_SUBJECT, corrupted=True),
        traces_pb2.TracedToken(text="b", role=traces_pb2.TOKEN_ROLE_LAST),
    ]
    message = traces_pb2.CausalTrace(tokens=tokens, layers=3, grids=[grid], clean=7, **fields)
    message.provenance.served.revision = "models/m/revisions/abc"
    message.provenance.served.branch = "main"
    return message


def test_a_grid_is_laid_out_in_rows_of_layers():
    read = _trace_messages.causal_trace(causal_trace(noise_source="some subjects"))

    assert read.grid("mlp").scores == ((1, 2, 3), (4, 5, 6))
    assert read.grid("mlp").standard_errors[1] == (0.1, 0.1, 0.1)
    assert [token.role for token in read.tokens] == [
        errata.TokenRole.LAST_SUBJECT,
        errata.TokenRole.LAST,
    ]
    assert (read.provenance.revision, read.provenance.branch) == ("abc", "main")
    assert read.noise_source == "some subjects"


def test_a_grid_of_another_size_is_an_error():
    message = causal_trace()
    message.grids[0].scores.append(7)

    with pytest.raises(errata.InternalError, match="7 values for 2 rows and 3 columns"):
        _trace_messages.causal_trace(message)


def test_values_of_a_newer_server_read_as_unspecified():
    newer: Any = 99
    message = causal_trace(metric=newer)
    message.tokens[0].role = newer
    message.grids[0].kind = newer

    read = _trace_messages.causal_trace(message)

    assert read.metric is errata.TraceMetric.UNSPECIFIED
    assert read.tokens[0].role is errata.TokenRole.UNSPECIFIED
    assert read.kinds == (errata.TraceKind.UNSPECIFIED,)
    assert read.plot().axes, "and can be drawn all the same"


def test_nan_in_a_chart_is_a_missing_value():
    chart = traces_pb2.Chart(rows=["a"], columns=["0", "1"], values=[math.nan, 2.0])
    message = traces_pb2.Location(charts=[chart], figures={"depth": 3}, options={"window": 9})

    read = _trace_messages.location(message)

    assert read.charts[0].values == ((None, 2.0),)
    assert (read.charts[0].low, read.charts[0].high) == ((), ())
    assert (read.figures, read.options) == ({"depth": 3}, {"window": 9})


def test_the_response_decides_the_type_of_the_result():
    responses = [
        (traces_pb2.TraceFactResponse(trace=causal_trace()), errata.CausalTrace),
        (traces_pb2.TraceFactsResponse(), errata.AverageTrace),
        (traces_pb2.FitProxyResponse(), errata.Proxy),
        (traces_pb2.LocateResponse(), errata.Location),
    ]

    for response, kind in responses:
        message = operations_pb2.Operation(name="operations/op-1", done=True)
        message.response.Pack(response)
        assert type(_operation_status.parse(message).result()) is kind


def test_what_is_not_given_is_left_to_the_server():
    request = sent(_trace_calls.trace("a b", "a"))

    assert request.parent == "models/m"
    for name in ("scale", "samples", "seed"):
        assert not request.corruption.HasField(name)
    assert not request.HasField("window")
    assert not request.HasField("memory_mib")
    assert (list(request.kinds), request.metric, request.proxy, request.revision) == ([], 0, "", "")


def test_all_options_of_a_trace_are_sent():
    request = sent(
        _trace_calls.trace(
            "a b", "a", answer="c", foil="d", kinds=["severed_mlp", errata.TraceKind.MLP],
            metric="kl", proxy="p-1", scale=2.5, samples=3, seed=0, replacements="e", window=1,
            memory_mib=64, revision="base", actor="bob", request_id="r-1",
        )
    )  # fmt: skip

    assert (request.prompt, request.subject, request.answer, request.foil) == ("a b", "a", "c", "d")
    assert list(request.kinds) == [
        traces_pb2.TRACE_KIND_SEVERED_MLP,
        traces_pb2.TRACE_KIND_MLP,
    ]
    assert request.metric == traces_pb2.TRACE_METRIC_KL
    assert request.proxy == "models/m/proxies/p-1"
    corruption = request.corruption
    assert (corruption.scale, corruption.samples, list(corruption.replacements)) == (2.5, 3, ["e"])
    assert corruption.HasField("seed"), "0 is a seed"
    assert (request.window, request.memory_mib) == (1, 64)
    assert request.revision == "models/m/revisions/base"
    assert (request.actor, request.request_id) == ("bob", "r-1")


def test_a_single_kind_is_not_taken_for_its_letters():
    assert len(sent(_trace_calls.trace("a b", "a", kinds="hidden")).kinds) == 1


@pytest.mark.parametrize(
    ("options", "known"),
    [
        ({"kinds": ["loud"]}, "hidden, mlp, attn, severed_mlp, severed_attn"),
        ({"kinds": ["unspecified"]}, "hidden, mlp"),
        ({"metric": "loud"}, "probability, log_probability"),
    ],
)
def test_an_unknown_kind_or_metric_is_an_error_that_lists_them(options, known):
    with pytest.raises(errata.InvalidInputError, match=known):
        sent(_trace_calls.trace("a b", "a", **options))


def test_facts_or_a_number_of_known_ones_are_sent():
    fact = errata.TracedFact(prompt="a b", subject="a")

    assert sent(_trace_calls.trace_facts([fact])).facts[0].subject == "a"
    assert not sent(_trace_calls.trace_facts([fact])).HasField("limit")
    assert sent(_trace_calls.trace_facts([], limit=7)).limit == 7


def test_all_options_of_a_proxy_are_sent():
    text = errata.LabelledText(text="t", label="good")
    request = sent(
        _trace_calls.fit_proxy(
            [text], suffix="", words="fine", positive_label="good", seed=4, hidden_state=True
        )
    )

    assert request.HasField("suffix"), "no suffix is a suffix"
    assert (list(request.words), request.positive_label, request.seed) == (["fine"], "good", 4)
    assert request.hidden_state
    assert not sent(_trace_calls.fit_proxy([text])).HasField("suffix")


def test_all_options_of_a_location_are_sent():
    request = sent(
        _trace_calls.locate(
            "lens", "a b", "a", answer="c", options={"window": 3}, seed=2, texts=["t"], revision="7"
        )
    )

    assert (request.locator, request.prompt, request.subject) == ("lens", "a b", "a")
    assert (request.answer, request.seed, list(request.texts)) == ("c", 2, ["t"])
    assert dict(request.options) == {"window": 3.0}
    assert request.revision == "models/m/revisions/7"


@pytest.mark.parametrize(
    "call",
    [
        _trace_calls.trace("a b", "a"),
        _trace_calls.trace_facts([]),
        _trace_calls.fit_proxy([]),
        _trace_calls.locate("lens", "a b", "a"),
    ],
    ids=lambda call: call.method,
)
def test_what_is_kept_is_signed_and_has_a_request_id_of_its_own(call):
    first, second = sent(call), sent(call)

    assert first.actor == "ana"
    assert len(first.request_id) == 36
    assert first.request_id != second.request_id
