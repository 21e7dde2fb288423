"""Messages of traces and locators as the client's own types; pure.

Invariants: matrices come row by row and leave as rows; NaN in a chart is a missing value. An
enum value of a newer server that this client does not know reads as ``UNSPECIFIED``.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

from errata._averages import AverageTrace, DroppedFact, EffectCurve
from errata._charts import Chart, ChartForm
from errata._errors import InternalError
from errata._locations import Location, Locator, LocatorOption
from errata._proxies import Proxy
from errata._trace_types import (
    Corruption,
    Provenance,
    TokenRole,
    TracedToken,
    TraceGrid,
    TraceKind,
    TraceMetric,
)
from errata._traces import CausalTrace
from errata._types import short
from errata.v1 import traces_pb2

T = TypeVar("T")

KINDS = {
    traces_pb2.TRACE_KIND_HIDDEN: TraceKind.HIDDEN,
    traces_pb2.TRACE_KIND_MLP: TraceKind.MLP,
    traces_pb2.TRACE_KIND_ATTN: TraceKind.ATTN,
    traces_pb2.TRACE_KIND_SEVERED_MLP: TraceKind.SEVERED_MLP,
    traces_pb2.TRACE_KIND_SEVERED_ATTN: TraceKind.SEVERED_ATTN,
}
METRICS = {
    traces_pb2.TRACE_METRIC_PROBABILITY: TraceMetric.PROBABILITY,
    traces_pb2.TRACE_METRIC_LOG_PROBABILITY: TraceMetric.LOG_PROBABILITY,
    traces_pb2.TRACE_METRIC_LOGIT_DIFFERENCE: TraceMetric.LOGIT_DIFFERENCE,
    traces_pb2.TRACE_METRIC_KL: TraceMetric.KL,
    traces_pb2.TRACE_METRIC_PROXY: TraceMetric.PROXY,
}
_ROLES = {
    traces_pb2.TOKEN_ROLE_FIRST_SUBJECT: TokenRole.FIRST_SUBJECT,
    traces_pb2.TOKEN_ROLE_MIDDLE_SUBJECT: TokenRole.MIDDLE_SUBJECT,
    traces_pb2.TOKEN_ROLE_LAST_SUBJECT: TokenRole.LAST_SUBJECT,
    traces_pb2.TOKEN_ROLE_FIRST_SUBSEQUENT: TokenRole.FIRST_SUBSEQUENT,
    traces_pb2.TOKEN_ROLE_FURTHER: TokenRole.FURTHER,
    traces_pb2.TOKEN_ROLE_LAST: TokenRole.LAST,
    traces_pb2.TOKEN_ROLE_BEFORE: TokenRole.BEFORE,
}
_FORMS = {
    traces_pb2.CHART_FORM_HEAT_MAP: ChartForm.HEAT_MAP,
    traces_pb2.CHART_FORM_LINES: ChartForm.LINES,
    traces_pb2.CHART_FORM_BARS: ChartForm.BARS,
}


def kind_message(kind: TraceKind) -> traces_pb2.TraceKind.ValueType:
    """``kind`` on the wire."""
    wire = {ours: theirs for theirs, ours in KINDS.items()}
    return wire[kind]


def metric_message(metric: TraceMetric) -> traces_pb2.TraceMetric.ValueType:
    """``metric`` on the wire."""
    wire = {ours: theirs for theirs, ours in METRICS.items()}
    return wire[metric]


def causal_trace(message: traces_pb2.CausalTrace) -> CausalTrace:
    """`CausalTrace` of the wire."""
    shape = len(message.tokens), message.layers
    return CausalTrace(
        prompt=message.prompt,
        subject=message.subject,
        tokens=tuple(_token(token) for token in message.tokens),
        layers=message.layers,
        answer=message.answer,
        answer_tokens=message.answer_tokens,
        predicted=message.predicted,
        foil=message.foil,
        metric=METRICS.get(message.metric, TraceMetric.UNSPECIFIED),
        corruption=_corruption(message.corruption),
        noise=message.noise,
        noise_source=message.noise_source,
        window=message.window,
        clean=message.clean,
        corrupted=message.corrupted,
        corrupted_samples=tuple(message.corrupted_samples),
        grids=tuple(_grid(grid, shape) for grid in message.grids),
        warnings=tuple(message.warnings),
        provenance=_provenance(message.provenance),
        proxy_labels=tuple(message.proxy_labels),
        digest=message.digest,
    )


def average_trace(message: traces_pb2.AverageTrace) -> AverageTrace:
    """`AverageTrace` of the wire."""
    return AverageTrace(
        facts=message.facts,
        dropped=tuple(DroppedFact(prompt=d.prompt, reason=d.reason) for d in message.dropped),
        layers=message.layers,
        metric=METRICS.get(message.metric, TraceMetric.UNSPECIFIED),
        corruption=_corruption(message.corruption),
        window=message.window,
        confidence=message.confidence,
        clean=message.clean,
        corrupted=message.corrupted,
        total_effect=message.total_effect,
        total_effect_low=message.total_effect_low,
        total_effect_high=message.total_effect_high,
        curves=tuple(_curve(curve) for curve in message.curves),
        warnings=tuple(message.warnings),
        provenance=_provenance(message.provenance),
        digest=message.digest,
    )


def proxy(message: traces_pb2.Proxy) -> Proxy:
    """`Proxy` of the wire."""
    return Proxy(
        name=message.name,
        suffix=message.suffix,
        words=tuple(message.words),
        negative_label=message.negative_label,
        positive_label=message.positive_label,
        features=message.features,
        train_texts=message.train_texts,
        test_texts=message.test_texts,
        train_accuracy=message.train_accuracy,
        test_accuracy=message.test_accuracy,
        majority_accuracy=message.majority_accuracy,
        seed=message.seed,
        model_digest=message.model_digest,
        weights_digest=message.weights_digest,
    )


def locator(message: traces_pb2.Locator) -> Locator:
    """`Locator` of the wire."""
    return Locator(
        name=message.name,
        title=message.title,
        shows=message.shows,
        cannot_show=message.cannot_show,
        source=message.source,
        options=tuple(
            LocatorOption(
                name=option.name,
                meaning=option.meaning,
                default=option.default_value,
                minimum=option.minimum,
                maximum=option.maximum,
            )
            for option in message.options
        ),
    )


def location(message: traces_pb2.Location) -> Location:
    """`Location` of the wire."""
    return Location(
        locator=locator(message.locator),
        prompt=message.prompt,
        subject=message.subject,
        answer=message.answer,
        predicted=message.predicted,
        tokens=tuple(message.tokens),
        charts=tuple(_chart(chart) for chart in message.charts),
        figures=dict(message.figures),
        options=dict(message.options),
        warnings=tuple(message.warnings),
        provenance=_provenance(message.provenance),
        digest=message.digest,
    )


def _token(message: traces_pb2.TracedToken) -> TracedToken:
    return TracedToken(
        text=message.text,
        role=_ROLES.get(message.role, TokenRole.UNSPECIFIED),
        corrupted=message.corrupted,
    )


def _corruption(message: traces_pb2.Corruption) -> Corruption:
    return Corruption(
        scale=message.scale,
        samples=message.samples,
        seed=message.seed,
        replacements=tuple(message.replacements),
    )


def _provenance(message: traces_pb2.Provenance) -> Provenance:
    return Provenance(
        model_digest=message.model_digest,
        weights_digest=message.served.weights_digest,
        dtype=message.dtype,
        device=message.device,
        torch=message.torch,
        seconds=message.seconds,
        revision=short(message.served.revision),
        sequence=message.served.sequence,
        branch=message.served.branch,
    )


def _grid(message: traces_pb2.TraceGrid, shape: tuple[int, int]) -> TraceGrid:
    return TraceGrid(
        kind=KINDS.get(message.kind, TraceKind.UNSPECIFIED),
        scores=_matrix(message.scores, shape),
        standard_errors=_matrix(message.standard_errors, shape),
    )


def _curve(message: traces_pb2.EffectCurve) -> EffectCurve:
    return EffectCurve(
        kind=KINDS.get(message.kind, TraceKind.UNSPECIFIED),
        role=_ROLES.get(message.role, TokenRole.UNSPECIFIED),
        sites=message.sites,
        effects=tuple(message.effects),
        low=tuple(message.low),
        high=tuple(message.high),
    )


def _chart(message: traces_pb2.Chart) -> Chart:
    shape = len(message.rows), len(message.columns)
    values, low, high = (
        _matrix([None if math.isnan(value) else value for value in given], shape)
        if given or name == "values"
        else ()
        for name, given in (
            ("values", message.values),
            ("low", message.low),
            ("high", message.high),
        )
    )
    return Chart(
        title=message.title,
        form=_FORMS.get(message.form, ChartForm.UNSPECIFIED),
        row_axis=message.row_axis,
        column_axis=message.column_axis,
        rows=tuple(message.rows),
        columns=tuple(message.columns),
        unit=message.unit,
        values=values,
        low=low,
        high=high,
    )


def _matrix(values: Sequence[T], shape: tuple[int, int]) -> tuple[tuple[T, ...], ...]:
    """``values`` laid out in rows.

    Raises:
        InternalError: there are not as many as the shape has cells.
    """
    rows, columns = shape
    if len(values) != rows * columns:
        raise InternalError(
            f"the server sent {len(values)} values for {rows} rows and {columns} columns; update "
            "the client",
            {"values": str(len(values))},
        )
    return tuple(tuple(values[row * columns : (row + 1) * columns]) for row in range(rows))
