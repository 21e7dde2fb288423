"""The calls of traces and locators as data, as in `errata._calls`; pure."""

from collections.abc import Iterable
from typing import Any, Unpack

from google.longrunning import operations_pb2

from errata import _operation_status as operation_status
from errata import _trace_messages as messages
from errata._arguments import checked, member, members, text_list
from errata._averages import AverageTrace, TracedFact
from errata._call_types import Call, Pages, Scope
from errata._locations import Location, Locator
from errata._operation_status import OperationStatus
from errata._options import (
    CorruptionOptions,
    LocateOptions,
    MeasuringOptions,
    ProxyOptions,
    TraceFactsOptions,
    TraceOptions,
)
from errata._proxies import LabelledText, Proxy
from errata._trace_types import TraceKind, TraceMetric
from errata._traces import CausalTrace
from errata._types import Page
from errata.v1 import traces_pb2

_TRACES = "errata.v1.TraceService"


@checked
def trace(
    prompt: str, subject: str, **options: Unpack[TraceOptions]
) -> Call[operations_pb2.Operation, OperationStatus[CausalTrace]]:
    """Start to trace one prompt."""
    return _started(
        "TraceFact",
        lambda scope: traces_pb2.TraceFactRequest(
            parent=scope.model,
            prompt=prompt,
            subject=subject,
            answer=options.get("answer", ""),
            foil=options.get("foil", ""),
            proxy=_proxy_name(scope, options.get("proxy", "")),
            **_corruption_fields(options),
            **_measuring_fields(scope, options),
        ),
    )


@checked
def trace_facts(
    facts: Iterable[TracedFact], **options: Unpack[TraceFactsOptions]
) -> Call[operations_pb2.Operation, OperationStatus[AverageTrace]]:
    """Start to trace many facts and average their effects."""
    listed = members(facts, TracedFact, "facts")
    return _started(
        "TraceFacts",
        lambda scope: traces_pb2.TraceFactsRequest(
            parent=scope.model,
            facts=[
                traces_pb2.TracedFact(prompt=fact.prompt, subject=fact.subject, answer=fact.answer)
                for fact in listed
            ],
            limit=options.get("limit"),
            **_corruption_fields(options),
            **_measuring_fields(scope, options),
        ),
    )


@checked
def fit_proxy(
    texts: Iterable[LabelledText], **options: Unpack[ProxyOptions]
) -> Call[operations_pb2.Operation, OperationStatus[Proxy]]:
    """Start to fit a classifier on what the model says at the end of texts."""
    listed = members(texts, LabelledText, "texts")
    return _started(
        "FitProxy",
        lambda scope: traces_pb2.FitProxyRequest(
            parent=scope.model,
            texts=[traces_pb2.LabelledText(text=text.text, label=text.label) for text in listed],
            suffix=options.get("suffix"),
            words=text_list(options.get("words", ()), "words"),
            hidden_state=options.get("hidden_state", False),
            positive_label=options.get("positive_label", ""),
            seed=options.get("seed", 0),
            **_measuring_fields(scope, options),
        ),
    )


@checked
def locate(
    locator: str, prompt: str, subject: str, **options: Unpack[LocateOptions]
) -> Call[operations_pb2.Operation, OperationStatus[Location]]:
    """Start to ask another locator about one fact."""
    return _started(
        "Locate",
        lambda scope: traces_pb2.LocateRequest(
            parent=scope.model,
            locator=locator,
            prompt=prompt,
            subject=subject,
            answer=options.get("answer", ""),
            options=options.get("options", {}),
            seed=options.get("seed", 0),
            texts=text_list(options.get("texts", ()), "texts"),
            **_measuring_fields(scope, options),
        ),
    )


def list_locators(page_size: int) -> Pages[Locator]:
    """Read the locators a server knows."""
    return lambda token: Call(
        method=f"/{_TRACES}/ListLocators",
        reply=traces_pb2.ListLocatorsResponse,
        build=lambda scope: traces_pb2.ListLocatorsRequest(
            parent=scope.model, page_size=page_size, page_token=token
        ),
        parse=lambda message: Page(
            items=tuple(messages.locator(locator) for locator in message.locators),
            next_token=message.next_page_token,
        ),
    )


def _started(method: str, build: Any) -> Call[operations_pb2.Operation, Any]:  # noqa: ANN401 - a request of any kind
    return Call(
        method=f"/{_TRACES}/{method}",
        reply=operations_pb2.Operation,
        build=build,
        parse=operation_status.parse,
    )


def _measuring_fields(scope: Scope, options: MeasuringOptions) -> dict[str, Any]:
    """Which weights are measured, and who asks."""
    return {
        "revision": scope.revision(options.get("revision", "")),
        **scope.signature(options),
    }


def _corruption_fields(options: CorruptionOptions) -> dict[str, Any]:
    """What is left unset is the server's to choose."""
    return {
        "kinds": _kinds(options.get("kinds", ())),
        "metric": _metric(options),
        "corruption": traces_pb2.Corruption(
            scale=options.get("scale"),
            samples=options.get("samples"),
            seed=options.get("seed"),
            replacements=text_list(options.get("replacements", ()), "replacements"),
        ),
        "window": options.get("window"),
        "memory_mib": options.get("memory_mib"),
    }


def _kinds(kinds: str | Iterable[str]) -> list[traces_pb2.TraceKind.ValueType]:
    given = text_list(kinds, "kinds")
    return [messages.kind_message(member(TraceKind, kind, "kinds")) for kind in given]


def _metric(options: CorruptionOptions) -> traces_pb2.TraceMetric.ValueType:
    metric = options.get("metric", TraceMetric.UNSPECIFIED)
    if metric == TraceMetric.UNSPECIFIED:
        return traces_pb2.TRACE_METRIC_UNSPECIFIED
    return messages.metric_message(member(TraceMetric, metric, "metric"))


def _proxy_name(scope: Scope, proxy: str | Proxy) -> str:
    if not proxy:
        return ""
    return scope.name("proxies", proxy.name if isinstance(proxy, Proxy) else proxy)
