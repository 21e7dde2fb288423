"""Causal traces, averages and proxies: what is asked, and what was found."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from errata.v1 import traces_pb2 as pb
from errata.v1 import types_pb2
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import Digest
from errata_server.domain.traces import (
    MAXIMUM_SAMPLES,
    AverageTrace,
    CausalTrace,
    Corruption,
    LabelledText,
    Metric,
    Provenance,
    Proxy,
    ProxyQuestion,
    TokenRole,
    TraceKind,
    TraceRequest,
)
from errata_server.rpc.convert import inference, values
from errata_server.service.trace_requests import (
    MOST_FACTS,
    MOST_TEXTS,
    AverageRequest,
    ProxyRequest,
    TracedFact,
)

KINDS: Final = {
    TraceKind.HIDDEN: pb.TRACE_KIND_HIDDEN,
    TraceKind.MLP: pb.TRACE_KIND_MLP,
    TraceKind.ATTN: pb.TRACE_KIND_ATTN,
    TraceKind.SEVERED_MLP: pb.TRACE_KIND_SEVERED_MLP,
    TraceKind.SEVERED_ATTN: pb.TRACE_KIND_SEVERED_ATTN,
}
METRICS: Final = {
    Metric.PROBABILITY: pb.TRACE_METRIC_PROBABILITY,
    Metric.LOG_PROBABILITY: pb.TRACE_METRIC_LOG_PROBABILITY,
    Metric.LOGIT_DIFFERENCE: pb.TRACE_METRIC_LOGIT_DIFFERENCE,
    Metric.KL: pb.TRACE_METRIC_KL,
    Metric.PROXY: pb.TRACE_METRIC_PROXY,
}
ROLES: Final = {
    TokenRole.FIRST_SUBJECT: pb.TOKEN_ROLE_FIRST_SUBJECT,
    TokenRole.MIDDLE_SUBJECT: pb.TOKEN_ROLE_MIDDLE_SUBJECT,
    TokenRole.LAST_SUBJECT: pb.TOKEN_ROLE_LAST_SUBJECT,
    TokenRole.FIRST_SUBSEQUENT: pb.TOKEN_ROLE_FIRST_SUBSEQUENT,
    TokenRole.FURTHER: pb.TOKEN_ROLE_FURTHER,
    TokenRole.LAST: pb.TOKEN_ROLE_LAST,
    TokenRole.BEFORE: pb.TOKEN_ROLE_BEFORE,
}
_LARGEST_SCALE: Final = 1_000.0
_LONGEST_LABEL: Final = 200
_MOST_WORDS: Final = 100
_DEFAULTS: Final = TraceRequest(prompt="-", subject="-")
_NOISE: Final = Corruption()

Value = TypeVar("Value", TraceKind, Metric)
Traceable = pb.TraceFactRequest | pb.TraceFactsRequest


def trace_request(
    message: pb.TraceFactRequest, *, proxy: Proxy | None, memory_mib: int
) -> TraceRequest:
    """One prompt to trace.

    Args:
        message: As the caller sent it.
        proxy: What ``message.proxy`` names.
        memory_mib: What the trace may take if the caller does not say.

    Raises:
        InvalidInputError: a text, a number, a kind or the metric is malformed.
        PromptTooLongError: no model here has a context for that many characters.
    """
    return TraceRequest(
        prompt=inference.prompt(message.prompt),
        subject=values.short_text(message.subject, "subject"),
        answer=values.short_text(message.answer, "answer"),
        foil=values.short_text(message.foil, "foil"),
        kinds=_kinds(message.kinds),
        corruption=_corruption(message.corruption),
        metric=_metric(message.metric, Metric.PROBABILITY if proxy is None else Metric.PROXY),
        proxy=proxy,
        window=_window(message),
        memory_mib=_memory(message, memory_mib),
    )


def average_request(message: pb.TraceFactsRequest, *, memory_mib: int) -> AverageRequest:
    """Many facts to trace in one way.

    Raises:
        InvalidInputError: there are too many, or a text, a number, a kind or the metric is
            malformed.
    """
    return AverageRequest(
        facts=tuple(
            _fact(fact, f"facts[{place}]")
            for place, fact in enumerate(at_most(message.facts, "facts", MOST_FACTS))
        ),
        limit=message.limit if message.HasField("limit") else None,
        kinds=_kinds(message.kinds),
        corruption=_corruption(message.corruption),
        metric=_metric(message.metric, Metric.PROBABILITY),
        window=_window(message),
        memory_mib=_memory(message, memory_mib),
    )


def proxy_request(message: pb.FitProxyRequest) -> ProxyRequest:
    """Labelled texts, and how to read them.

    Raises:
        InvalidInputError: there are too many, or a text, a label, a word or the seed is
            malformed.
    """
    if message.hidden_state and message.words:
        raise InvalidInputError(
            "hidden_state reads no words; leave one of the two out", field="words"
        )
    default = ProxyQuestion()
    words = tuple(
        _required(word, f"words[{place}]", at_most=_LONGEST_LABEL)
        for place, word in enumerate(at_most(message.words, "words", _MOST_WORDS))
    )
    suffix = message.suffix if message.HasField("suffix") else default.suffix
    return ProxyRequest(
        texts=tuple(
            _labelled(text, f"texts[{place}]")
            for place, text in enumerate(at_most(message.texts, "texts", MOST_TEXTS))
        ),
        question=ProxyQuestion(
            suffix=values.short_text(suffix, "suffix"),
            words=() if message.hidden_state else words or default.words,
        ),
        positive=values.short_text(message.positive_label, "positive_label"),
        seed=message.seed,
    )


def trace_message(digest: Digest, trace: CausalTrace, served: types_pb2.Served) -> pb.CausalTrace:
    """A trace, taken on ``served``."""
    return pb.CausalTrace(
        digest=digest,
        prompt=trace.prompt,
        subject=trace.subject,
        tokens=[
            pb.TracedToken(text=token.text, role=ROLES[token.role], corrupted=token.corrupted)
            for token in trace.tokens
        ],
        layers=trace.layers,
        answer=trace.answer,
        answer_tokens=trace.answer_tokens,
        predicted=trace.predicted,
        foil=trace.foil,
        metric=METRICS[trace.metric],
        corruption=_corruption_message(trace.corruption),
        noise=trace.noise,
        window=trace.window,
        clean=trace.clean,
        corrupted=trace.corrupted,
        corrupted_samples=trace.corrupted_samples,
        grids=[
            pb.TraceGrid(
                kind=KINDS[grid.kind],
                scores=_flat(grid.scores),
                standard_errors=_flat(grid.standard_errors),
            )
            for grid in trace.grids
        ],
        warnings=trace.warnings,
        provenance=provenance_message(trace.provenance, served),
        proxy_labels=trace.proxy_labels,
        noise_source=trace.noise_source,
    )


def average_message(
    digest: Digest, average: AverageTrace, served: types_pb2.Served
) -> pb.AverageTrace:
    """An average over facts, taken on ``served``."""
    return pb.AverageTrace(
        digest=digest,
        facts=average.facts,
        dropped=[pb.DroppedFact(prompt=d.prompt, reason=d.reason) for d in average.dropped],
        layers=average.layers,
        metric=METRICS[average.metric],
        corruption=_corruption_message(average.corruption),
        window=average.window,
        confidence=average.confidence,
        clean=average.clean,
        corrupted=average.corrupted,
        total_effect=average.total_effect,
        total_effect_low=average.total_effect_low,
        total_effect_high=average.total_effect_high,
        curves=[
            pb.EffectCurve(
                kind=KINDS[curve.kind],
                role=ROLES[curve.role],
                sites=curve.sites,
                effects=curve.effects,
                low=curve.low,
                high=curve.high,
            )
            for curve in average.curves
        ],
        warnings=average.warnings,
        provenance=provenance_message(average.provenance, served),
    )


def proxy_message(name: str, proxy: Proxy) -> pb.Proxy:
    """A fitted classifier without its coefficients, which stay in the ledger."""
    negative, positive = proxy.labels
    return pb.Proxy(
        name=name,
        suffix=proxy.question.suffix,
        words=proxy.question.words,
        negative_label=negative,
        positive_label=positive,
        features=len(proxy.coefficients),
        train_texts=proxy.train_texts,
        test_texts=proxy.test_texts,
        train_accuracy=proxy.train_accuracy,
        test_accuracy=proxy.test_accuracy,
        majority_accuracy=proxy.majority_accuracy,
        seed=proxy.seed,
        model_digest=proxy.model_digest,
        weights_digest=proxy.weights_digest,
    )


def provenance_message(provenance: Provenance, served: types_pb2.Served) -> pb.Provenance:
    """What a measurement was taken on."""
    return pb.Provenance(
        model_digest=provenance.model_digest,
        served=served,
        dtype=provenance.dtype,
        device=provenance.device,
        torch=provenance.torch,
        seconds=provenance.seconds,
    )


Item = TypeVar("Item")


def at_most(given: Sequence[Item], field: str, most: int) -> Sequence[Item]:
    """``given``, if there are no more than ``most`` of them.

    Raises:
        InvalidInputError: there are more.
    """
    if len(given) > most:
        raise InvalidInputError(
            f"{field} has {len(given)} entries; at most {most} are allowed",
            field=field,
            limit=most,
        )
    return given


def _kinds(numbers: Sequence[pb.TraceKind.ValueType]) -> tuple[TraceKind, ...]:
    if not numbers:
        return _DEFAULTS.kinds
    return tuple(_named(number, f"kinds[{at}]", KINDS) for at, number in enumerate(numbers))


def _metric(number: pb.TraceMetric.ValueType, default: Metric) -> Metric:
    if number == pb.TRACE_METRIC_UNSPECIFIED:
        return default
    return _named(number, "metric", METRICS)


def _named(number: int, field: str, table: Mapping[Value, int]) -> Value:
    """The value with this number.

    Raises:
        InvalidInputError: none has it.
    """
    for value, known in table.items():
        if known == number:
            return value
    raise InvalidInputError(
        f"{field} is {number}, which nothing here has; there are {', '.join(table)}",
        field=field,
        value=number,
    )


def _corruption(message: pb.Corruption) -> Corruption:
    replacements = at_most(message.replacements, "corruption.replacements", MAXIMUM_SAMPLES)
    with values.within("corruption"):
        scale = message.scale if message.HasField("scale") else _NOISE.scale
        return Corruption(
            scale=values.number(scale, "scale", at_most=_LARGEST_SCALE),
            samples=message.samples if message.HasField("samples") else _NOISE.samples,
            seed=message.seed if message.HasField("seed") else _NOISE.seed,
            replacements=tuple(
                _required(text, f"replacements[{place}]") for place, text in enumerate(replacements)
            ),
        )


def _corruption_message(corruption: Corruption) -> pb.Corruption:
    return pb.Corruption(
        scale=corruption.scale,
        samples=corruption.samples,
        seed=corruption.seed,
        replacements=corruption.replacements,
    )


def _window(message: Traceable) -> int:
    return message.window if message.HasField("window") else _DEFAULTS.window


def _memory(message: Traceable, default: int) -> int:
    return message.memory_mib if message.HasField("memory_mib") else default


def _fact(message: pb.TracedFact, path: str) -> TracedFact:
    with values.within(path):
        return TracedFact(
            prompt=inference.prompt(message.prompt),
            subject=values.short_text(message.subject, "subject"),
            answer=values.short_text(message.answer, "answer"),
        )


def _labelled(message: pb.LabelledText, path: str) -> LabelledText:
    with values.within(path, prompt="text"):
        text = inference.prompt(message.text)
        if not text.strip():
            raise InvalidInputError("the text is empty; give some words", field="text")
        label = _required(message.label, "label", at_most=_LONGEST_LABEL)
        return LabelledText(text=text, label=label)


def _required(text: str, field: str, *, at_most: int = 2_000) -> str:
    found = values.short_text(text, field, at_most=at_most)
    if not found:
        raise InvalidInputError(f"{field} is empty; give some text", field=field)
    return found


def _flat(rows: Iterable[Iterable[float]]) -> list[float]:
    return [value for row in rows for value in row]
