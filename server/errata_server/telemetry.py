"""Metrics and logs: everything the server tells its operators.

Invariants: no resource id, prompt, subject or data source name is ever a label or a log
field; every metric is registered here and nowhere else, in `REGISTRY`; logging is
configured once per process. The gRPC metrics carry the names of go-grpc-prometheus, so
that stock dashboards read them.
"""

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import Final, TextIO

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

from errata_server.domain.checks import CheckKind, Report, Verdict
from errata_server.domain.health import Health, LiveVerification
from errata_server.domain.profiles import ModelDescription

REGISTRY: Final = CollectorRegistry(auto_describe=True)
"""Every metric of this process; the metrics endpoint serves it."""

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

_METHOD: Final = ("grpc_type", "grpc_service", "grpc_method")
_RPC_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STAGE_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_SHARES: Final = (0.0, 0.25, 0.5, 0.667, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
_DROPS: Final = (-0.01, 0.0, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0)
_PERPLEXITIES: Final = (0.99, 1.0, 1.0005, 1.001, 1.005, 1.01, 1.02, 1.05, 1.1, 1.2, 2.0)


def _counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
    return Counter(name, text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
    return Gauge(name, text, labels, registry=REGISTRY)


def _histogram(
    name: str, text: str, labels: tuple[str, ...] = (), *, buckets: tuple[float, ...]
) -> Histogram:
    return Histogram(name, text, labels, registry=REGISTRY, buckets=buckets)


_RPC_STARTED = _counter("grpc_server_started_total", "RPCs started.", _METHOD)
_RPC_HANDLED = _counter("grpc_server_handled_total", "RPCs ended.", (*_METHOD, "grpc_code"))
_RPC_SECONDS_SPENT = _histogram(
    "grpc_server_handling_seconds", "Time from start to end.", _METHOD, buckets=_RPC_SECONDS
)
_RPC_RECEIVED = _counter("grpc_server_msg_received_total", "Messages received.", _METHOD)
_RPC_SENT = _counter("grpc_server_msg_sent_total", "Messages sent.", _METHOD)

_STAGE = _histogram(
    "errata_stage_seconds",
    "Time spent in a stage of an edit, or in a trace.",
    ("stage",),
    buckets=_STAGE_SECONDS,
)
_MEASURED: Final = {
    CheckKind.EFFICACY: (
        _histogram("errata_edit_efficacy_ratio", "Efficacy of reports.", buckets=_SHARES),
        _gauge("errata_last_edit_efficacy_ratio", "Efficacy of the latest report."),
    ),
    CheckKind.PARAPHRASE: (
        _histogram("errata_edit_paraphrase_ratio", "Paraphrase score.", buckets=_SHARES),
        _gauge("errata_last_edit_paraphrase_ratio", "Paraphrase score of the latest report."),
    ),
    CheckKind.NEIGHBOURHOOD: (
        _histogram("errata_edit_neighbourhood_drop_ratio", "Neighbours' drop.", buckets=_DROPS),
        _gauge("errata_last_edit_neighbourhood_drop_ratio", "Drop of the latest report."),
    ),
    CheckKind.PERPLEXITY: (
        _histogram("errata_edit_perplexity_ratio", "After over before.", buckets=_PERPLEXITIES),
        _gauge("errata_last_edit_perplexity_ratio", "Of the latest report."),
    ),
    CheckKind.CUMULATIVE_PERPLEXITY: (
        _histogram(
            "errata_cumulative_perplexity_ratio", "All edits over none.", buckets=_PERPLEXITIES
        ),
        _gauge("errata_last_cumulative_perplexity_ratio", "Of the latest report."),
    ),
}
_RISES: Final = frozenset({CheckKind.PERPLEXITY, CheckKind.CUMULATIVE_PERPLEXITY})
"""Checks that hold the rise over 1, where the metric is the ratio itself."""

_HEALTH_STATUS: Final = {Verdict.PASSED: 0, Verdict.WARNED: 1, Verdict.FAILED: 2}
_REJECTIONS = _counter("errata_rejections_total", "Failed checks in reports.", ("check",))
_REVERTS = _counter("errata_reverts_total", "Reverting revisions.", ("kind",))
_OPERATIONS = _counter("errata_operations_total", "Operations ended.", ("kind", "outcome"))
_RUNNING = _gauge("errata_operations_running", "Operations not ended.", ("kind",))
_LIVE = _gauge("errata_live_edits", "Edits acting on the served model.")
_APPLIED = _gauge("errata_applied_edits", "Edits applied on the branch, superseded ones included.")
_HEAD = _gauge("errata_head_sequence", "Sequence of the branch's head in the ledger.")
_SERVED = _gauge("errata_served_sequence", "Sequence of the revision this server answers with.")
_LOG = _gauge("errata_log_entries", "Entries of the log when it was last read.")
_LAG = _gauge("errata_ledger_lag_revisions", "Known revisions that are not served yet.")
_STALENESS = _gauge("errata_ledger_staleness_seconds", "Since the ledger last answered.")
_REACHABLE = _gauge("errata_ledger_up", "1 while the ledger answers.")
_QUARANTINED = _gauge("errata_quarantined", "1 while a replica has taken itself out.")
_LEASE = _gauge("errata_lease_held", "1 while this server carries out operations.")
_DRIFT = _gauge("errata_drift_ratio", "Perplexity of fixed texts, served over base.")
_HEALTH = _gauge("errata_health_status", "0 well, 1 retrain soon, 2 hurt.")
_LAYER_EDITS = _gauge("errata_layer_live_edits", "Live edits of a layer.", ("layer",))
_LAYER_BUDGET = _gauge("errata_layer_edit_budget", "Edits it bears, +Inf unknown.", ("layer",))
_LAYER_FIRINGS = _gauge("errata_layer_firing_ratio", "Ordinary keys with a guard.", ("layer",))
_LAYER_DISTURBANCE = _gauge(
    "errata_layer_disturbance_ratio", "Of ordinary outputs, as one weight change.", ("layer",)
)
_CHECKED = _gauge("errata_live_verification_edits", "Edits the last one asked.", ("outcome",))
_TOKENS = _counter("errata_generated_tokens_total", "Tokens generated.")
_GENERATE = _histogram(
    "errata_generate_seconds", "Time of a whole generation.", buckets=_RPC_SECONDS
)
_FIRST_TOKEN = _histogram(
    "errata_time_to_first_token_seconds", "Time to the first token.", buckets=_RPC_SECONDS
)
_BUILD = Info("errata_build", "Version of the server.", registry=REGISTRY)
_MODEL = Info("errata_model", "Architecture of the served model.", registry=REGISTRY)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a stage: of an edit (keys, values, checks, compose, commit, publish), or a trace."""
    started = perf_counter()
    try:
        yield
    finally:
        _STAGE.labels(name).observe(perf_counter() - started)


def observe_report(report: Report) -> None:
    """Count a report's figures and its failed checks."""
    for kind, (distribution, latest) in _MEASURED.items():
        check = report.of_kind(kind)
        if check is None or check.measured is None or check.verdict is Verdict.SKIPPED:
            continue
        value = 1 + check.measured if kind in _RISES else check.measured
        distribution.observe(value)
        latest.set(value)
    for failure in report.failures:
        count_rejection(failure.kind.value)


def count_rejection(check: str) -> None:
    """Count a check that kept an edit from passing."""
    _REJECTIONS.labels(check).inc()


def count_revert(kind: str) -> None:
    """Count a reverting revision: ``edits`` or ``to_revision``."""
    _REVERTS.labels(kind).inc()


def set_ledger(*, live: int, applied: int, head: int, served: int) -> None:
    """Tell what the branch has applied and which of its sequences is being served."""
    _LIVE.set(live)
    _APPLIED.set(applied)
    _HEAD.set(head)
    _SERVED.set(served)
    _LAG.set(max(0, head - served))


def watch_staleness(seconds: Callable[[], float]) -> None:
    """Ask ``seconds`` at every scrape how long ago the ledger last answered."""
    _STALENESS.set_function(seconds)


def ledger_reachable(*, reachable: bool) -> None:
    """Tell whether the ledger answered when it was last asked."""
    _REACHABLE.set(reachable)


def set_quarantined(*, quarantined: bool) -> None:
    """Tell whether this replica has taken itself out."""
    _QUARANTINED.set(quarantined)


def set_lease_held(*, held: bool) -> None:
    """Tell whether this server carries out the model's operations."""
    _LEASE.set(held)


def observe_log(entries: int) -> None:
    """Record how long the log is."""
    _LOG.set(entries)


def observe_health(health: Health) -> None:
    """Tell how the served model is; a layer that has lost its edits is no longer told of."""
    if health.drift.base > 0:
        _DRIFT.set(health.drift.served / health.drift.base)
    _HEALTH.set(_HEALTH_STATUS.get(health.verdict, 0))
    for gauge in (_LAYER_EDITS, _LAYER_BUDGET, _LAYER_FIRINGS, _LAYER_DISTURBANCE):
        gauge.clear()
    for layer in health.layers:
        name, strain = str(layer.strain.layer), layer.strain
        _LAYER_EDITS.labels(name).set(strain.live_edits)
        _LAYER_BUDGET.labels(name).set(math.inf if layer.budget is None else layer.budget)
        _LAYER_FIRINGS.labels(name).set(strain.firing_share)
        _LAYER_DISTURBANCE.labels(name).set(strain.disturbance)


def observe_live_verification(found: LiveVerification) -> None:
    """Tell what asking live edits again came to."""
    held = sum(checked.held for checked in found.edits)
    _CHECKED.labels("held").set(held)
    _CHECKED.labels("failed").set(len(found.edits) - held)


def operation_started(kind: str) -> None:
    """Count an operation that begins to run."""
    _RUNNING.labels(kind).inc()


def operation_finished(kind: str, outcome: str) -> None:
    """Count an operation that ended: succeeded, failed or cancelled."""
    _RUNNING.labels(kind).dec()
    _OPERATIONS.labels(kind, outcome).inc()


def tokens_generated(count: int) -> None:
    """Count generated tokens."""
    _TOKENS.inc(count)


def generation_finished(seconds: float, first_token: float) -> None:
    """Record how long a generation took in all, and until its first token."""
    _GENERATE.observe(seconds)
    _FIRST_TOKEN.observe(first_token)


def describe_build(version: str) -> None:
    """Publish the server's version."""
    _BUILD.info({"version": version})


def describe_model(model: ModelDescription) -> None:
    """Publish what kind of model is served; never its name, source or digest."""
    _MODEL.info(
        {"architecture": model.architecture, "layers": str(model.layers), "dtype": model.dtype}
    )


class RpcRecord:
    """One RPC's metrics, from its start to its end."""

    def __init__(self, method: tuple[str, str, str]) -> None:
        """Count the start of an RPC; ``method`` is (type, service, method)."""
        self._method = method
        self._started = perf_counter()
        _RPC_STARTED.labels(*method).inc()

    def received(self) -> None:
        """Count a request message."""
        _RPC_RECEIVED.labels(*self._method).inc()

    def sent(self) -> None:
        """Count a response message."""
        _RPC_SENT.labels(*self._method).inc()

    def handled(self, code: str) -> float:
        """Count the end of the RPC with gRPC's name of its ``code``; its seconds."""
        seconds = perf_counter() - self._started
        _RPC_HANDLED.labels(*self._method, code).inc()
        _RPC_SECONDS_SPENT.labels(*self._method).observe(seconds)
        return seconds


_HIDDEN: ContextVar[tuple[str, ...]] = ContextVar("hidden", default=())
_CREDENTIALS: Final = re.compile(r"(?<=://)[^\s/]*@|(?<=password=)[^\s&]+", re.IGNORECASE)
_SHORTEST_HIDDEN: Final = 3
"""Shorter texts are left alone: masking every "a" would leave no log to read."""


_SHARED: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.PositionalArgumentsFormatter(),
]

# From the first import on structlog writes to the standard library's logging, never to
# standard output, which belongs to whoever started the server.
structlog.configure(
    processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=False,
)


def configure_logging(stream: TextIO, level: int = logging.INFO) -> None:
    """Write structlog's and the standard library's records to ``stream`` as JSON lines."""
    # Local variables hold prompts, so a traceback is written without them.
    tracebacks = ExceptionDictTransformer(show_locals=False, use_rich=False)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                ExceptionRenderer(tracebacks),
                _masked,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # It tells every start that it looked at the schema; what it changes is in the ledger.
    logging.getLogger("alembic").setLevel(max(level, logging.WARNING))


@contextmanager
def hiding(texts: Iterable[str]) -> Iterator[None]:
    """Replace each of ``texts`` in whatever is logged inside: a caller's prompts and subjects."""
    longest_first = sorted({t for t in texts if len(t) >= _SHORTEST_HIDDEN}, key=len, reverse=True)
    token = _HIDDEN.set(tuple(longest_first))
    try:
        yield
    finally:
        _HIDDEN.reset(token)


def mask_credentials(text: str) -> str:
    """``text`` with the user and password of every URL in it replaced."""
    return _CREDENTIALS.sub(lambda found: "***@" if found[0].endswith("@") else "***", text)


def _masked(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {name: _mask(value) for name, value in event.items()}


def _mask(value: object) -> object:
    if isinstance(value, str):
        for text in _HIDDEN.get():
            value = value.replace(text, "[hidden]")
        return mask_credentials(value)
    if isinstance(value, dict):
        return {name: _mask(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mask(item) for item in value]
    return value
