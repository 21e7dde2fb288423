"""Locators, what they are asked, and the charts they give."""

import math
from collections.abc import Iterable
from typing import Final

from errata.v1 import traces_pb2 as pb
from errata.v1 import types_pb2
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import Digest
from errata_server.domain.locators import Chart, ChartForm, LocateRequest, Location, Locator
from errata_server.rpc.convert import inference, traces, values
from errata_server.service.trace_requests import MOST_TEXTS

FORMS: Final = {
    ChartForm.HEAT_MAP: pb.CHART_FORM_HEAT_MAP,
    ChartForm.LINES: pb.CHART_FORM_LINES,
    ChartForm.BARS: pb.CHART_FORM_BARS,
}


def locate_request(message: pb.LocateRequest) -> LocateRequest:
    """One fact, and the locator to ask about it.

    Raises:
        InvalidInputError: a text or the seed is malformed, or there are too many texts.
        PromptTooLongError: no model here has a context for that many characters.
    """
    texts = tuple(traces.at_most(message.texts, "texts", MOST_TEXTS))
    if texts and not any(text.strip() for text in texts):
        raise InvalidInputError("texts holds no word; give some, or none at all", field="texts")
    return LocateRequest(
        locator=values.short_text(message.locator, "locator"),
        prompt=inference.prompt(message.prompt),
        subject=values.short_text(message.subject, "subject"),
        answer=values.short_text(message.answer, "answer"),
        options=dict(message.options),
        seed=message.seed,
        texts=texts,
    )


def locator_message(locator: Locator) -> pb.Locator:
    """A locator with its options."""
    return pb.Locator(
        name=locator.name,
        title=locator.title,
        shows=locator.shows,
        cannot_show=locator.cannot_show,
        source=locator.source,
        options=[
            pb.LocatorOption(
                name=option.name,
                meaning=option.meaning,
                default_value=option.default,
                minimum=option.minimum,
                maximum=option.maximum,
            )
            for option in locator.options
        ],
    )


def location_message(digest: Digest, location: Location, served: types_pb2.Served) -> pb.Location:
    """What a locator found, on ``served``."""
    return pb.Location(
        digest=digest,
        locator=locator_message(location.locator),
        prompt=location.request.prompt,
        subject=location.request.subject,
        answer=location.answer,
        predicted=location.predicted,
        tokens=location.tokens,
        charts=[_chart_message(chart) for chart in location.charts],
        figures=location.figures,
        warnings=location.warnings,
        provenance=traces.provenance_message(location.provenance, served),
        options=location.request.options,
    )


def _chart_message(chart: Chart) -> pb.Chart:
    return pb.Chart(
        title=chart.title,
        form=FORMS[chart.form],
        row_axis=chart.row_axis,
        column_axis=chart.column_axis,
        rows=chart.rows,
        columns=chart.columns,
        unit=chart.unit,
        values=_flat(chart.values),
        low=_flat(chart.low),
        high=_flat(chart.high),
    )


def _flat(rows: Iterable[Iterable[float | None]]) -> list[float]:
    """Row by row, with NaN where there is nothing to say."""
    return [math.nan if value is None else value for row in rows for value in row]
