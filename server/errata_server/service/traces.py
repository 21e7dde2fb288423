"""Where the model keeps a fact: causal traces, proxies and the other locators.

Invariants: an operation works on the weights of one revision, pinned before it was
submitted, and its result says which; a result is stored before the operation succeeds.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from errata_server import telemetry
from errata_server.domain.errors import (
    InvalidInputError,
    LocatorNotFoundError,
    ModelMismatchError,
    NotFoundError,
    ProxyNotFoundError,
)
from errata_server.domain.ids import Digest
from errata_server.domain.known_facts import KnownFacts
from errata_server.domain.locators import LocateRequest, Location, Locator
from errata_server.domain.operations import Operation, OperationKind, ReportProgress
from errata_server.domain.traces import AverageTrace, CausalTrace, Provenance, Proxy, TraceRequest
from errata_server.ledger.ledger import Ledger
from errata_server.service import results
from errata_server.service.calls import Call, page_limit
from errata_server.service.operations import Operations
from errata_server.service.ports import Engine
from errata_server.service.results import AnyResult, Result
from errata_server.service.serving import Serving
from errata_server.service.trace_requests import AverageRequest, ProxyRequest
from errata_server.service.views import Page, Pinned

Measure = Callable[[ReportProgress], AnyResult]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traces:
    """Locating facts in the one model this server has loaded."""

    engine: Engine
    ledger: Ledger
    serving: Serving
    operations: Operations
    known_facts: KnownFacts
    memory_mib: int
    """Most memory a trace may ask for."""

    def trace(self, request: TraceRequest, reference: str, call: Call) -> Operation:
        """Trace one prompt at a revision.

        Raises:
            InvalidInputError: it asks for more memory than the server allows.
            RevisionNotFoundError: ``reference`` names no revision.
            RequestIdReusedError: the request id was used for something else.
        """
        self._require_memory(request.memory_mib)
        pinned = self.serving.at(reference)

        def measure(progress: ReportProgress) -> CausalTrace:
            found = self.engine.trace(request, pinned.weights, progress=progress)
            warnings = (*found.warnings, *_proxy_warnings(request.proxy, pinned))
            return replace(found, warnings=warnings, provenance=_placed(found.provenance, pinned))

        return self._submit(
            OperationKind.TRACE,
            measure,
            call=call,
            content={"request": asdict(request), "revision": reference},
            words=(request.prompt, request.subject, request.answer, request.foil),
        )

    def average(self, request: AverageRequest, reference: str, call: Call) -> Operation:
        """Trace many facts at a revision and average them over the roles of their tokens.

        Raises:
            InvalidInputError: there is no fact, the way to trace them is malformed, or it
                asks for more memory than the server allows.
            RevisionNotFoundError: ``reference`` names no revision.
            RequestIdReusedError: the request id was used for something else.
        """
        self._require_memory(request.memory_mib)
        traces = request.traces(self.known_facts)
        pinned = self.serving.at(reference)

        def measure(progress: ReportProgress) -> AverageTrace:
            found = self.engine.average_trace(traces, pinned.weights, progress=progress)
            return replace(found, provenance=_placed(found.provenance, pinned))

        return self._submit(
            OperationKind.AVERAGE_TRACE,
            measure,
            call=call,
            content={"request": asdict(request), "revision": reference},
            words=(text for fact in request.facts for text in (fact.prompt, fact.subject)),
        )

    def fit_proxy(self, request: ProxyRequest, reference: str, call: Call) -> Operation:
        """Fit a classifier on what the model says, at a revision, at the end of texts.

        Raises:
            RevisionNotFoundError: ``reference`` names no revision.
            RequestIdReusedError: the request id was used for something else.
        """
        pinned = self.serving.at(reference)

        def measure(progress: ReportProgress) -> Proxy:
            return self.engine.fit_proxy(
                request.texts,
                request.question,
                pinned.weights,
                positive=request.positive,
                seed=request.seed,
                progress=progress,
            )

        return self._submit(
            OperationKind.FIT_PROXY,
            measure,
            call=call,
            content={"request": asdict(request), "revision": reference},
            words=(labelled.text for labelled in request.texts),
        )

    def locate(self, request: LocateRequest, reference: str, call: Call) -> Operation:
        """Ask a locator about one fact at a revision.

        Raises:
            LocatorNotFoundError: there is none of that name.
            InvalidInputError: it has no such option, or not with such a value.
            RevisionNotFoundError: ``reference`` names no revision.
            RequestIdReusedError: the request id was used for something else.
        """
        options = self._locator(request.locator).chosen(request.options)
        asked = replace(request, options=options)
        pinned = self.serving.at(reference)

        def measure(progress: ReportProgress) -> Location:
            found = self.engine.locate(
                asked, pinned.weights, known_facts=self.known_facts, progress=progress
            )
            return replace(found, provenance=_placed(found.provenance, pinned))

        return self._submit(
            OperationKind.LOCATE,
            measure,
            call=call,
            content={"request": asdict(request), "revision": reference},
            words=(request.prompt, request.subject, request.answer, *request.texts),
        )

    def locators(self, *, page_size: int = 0, page_token: str = "") -> Page[Locator]:
        """Every locator but the causal trace, by name.

        Raises:
            InvalidInputError: the page size is negative.
        """
        limit = page_limit(page_size)
        found = sorted(self.engine.locators(), key=lambda locator: locator.name)
        left = [locator for locator in found if locator.name > page_token]
        more = len(left) > limit
        return Page(items=tuple(left[:limit]), next_token=left[limit - 1].name if more else "")

    def proxy(self, digest: Digest) -> Proxy:
        """A fitted classifier that can be traced on this model.

        Raises:
            ProxyNotFoundError: the ledger does not hold it.
            InvalidInputError: the artifact is something else.
            ModelMismatchError: it was fitted on another model.
        """
        try:
            payload = self.ledger.artifact(digest)
        except NotFoundError as error:
            raise ProxyNotFoundError(
                f"the ledger has no proxy {digest!r}; fit one first", proxy=digest, field="proxy"
            ) from error
        try:
            proxy = results.decode(Proxy, payload)
        except InvalidInputError as error:
            raise InvalidInputError(
                f"artifact {digest[:12]} is no proxy; name one that was fitted",
                field="proxy",
                artifact=digest,
            ) from error
        served = self.engine.describe().digest
        if proxy.model_digest != served:
            raise ModelMismatchError(
                f"proxy {digest[:12]} was fitted on model {proxy.model_digest[:12]}, this server "
                f"serves {served[:12]}; fit it again",
                proxy=digest,
                fitted=proxy.model_digest,
                served=served,
            )
        return proxy

    def result(self, kind: type[Result], digest: Digest) -> Result:
        """What an operation stored.

        Raises:
            NotFoundError: the ledger does not hold it.
            InvalidInputError: the artifact is something else.
        """
        return results.decode(kind, self.ledger.artifact(digest))

    def _require_memory(self, asked: int) -> None:
        if asked > self.memory_mib:
            raise InvalidInputError(
                f"memory_mib is {asked}; this server gives a trace at most {self.memory_mib}",
                field="memory_mib",
                value=asked,
                limit=self.memory_mib,
            )

    def _locator(self, name: str) -> Locator:
        known = {locator.name: locator for locator in self.engine.locators()}
        if name not in known:
            raise LocatorNotFoundError(
                f"there is no locator {name!r}; there are {', '.join(sorted(known))}",
                locator=name,
                field="locator",
            )
        return known[name]

    def _submit(
        self,
        kind: OperationKind,
        measure: Measure,
        *,
        call: Call,
        content: dict[str, Any],
        words: Iterable[str],
    ) -> Operation:
        """Start ``measure``; ``words`` are the caller's, and stay out of the log."""

        def work(progress: ReportProgress) -> dict[str, Any]:
            with telemetry.stage(kind.value):
                found = measure(progress)
            return {"artifact": self.ledger.put_artifact(results.encode(found))}

        with telemetry.hiding(words):
            return self.operations.submit(
                kind,
                actor=call.actor,
                request_id=call.request_id,
                request_digest=call.digest(kind.value, **content),
                work=work,
            )


def _placed(provenance: Provenance, pinned: Pinned) -> Provenance:
    revision = pinned.revision
    return replace(
        provenance, revision=revision.id, sequence=revision.sequence, branch=revision.branch
    )


def _proxy_warnings(proxy: Proxy | None, pinned: Pinned) -> tuple[str, ...]:
    if proxy is None or proxy.weights_digest == pinned.weights.digest:
        return ()
    return (
        f"the proxy was fitted on weights {proxy.weights_digest[:12]}, the trace was taken on "
        f"{pinned.weights.digest[:12]}: other edits were live",
    )
