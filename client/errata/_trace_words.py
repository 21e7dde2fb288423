"""How causal traces are worded and coloured in pictures, tables and messages; pure.

Invariant: whatever names a layer goes with `CAVEAT`.
"""

from collections.abc import Sequence
from typing import Final

from errata._charts import Chart, ChartForm, Hue, quoted, signed, unsigned
from errata._trace_types import Peak, TokenRole, TracedToken, TraceKind, TraceMetric

CAVEAT: Final = (
    "A trace explains where an answer is carried; it does not choose the layer to edit "
    "(Hase et al. 2023)."
)

METRICS: Final = {
    TraceMetric.UNSPECIFIED: "score",
    TraceMetric.PROBABILITY: "p",
    TraceMetric.LOG_PROBABILITY: "log p",
    TraceMetric.LOGIT_DIFFERENCE: "logit difference",
    TraceMetric.KL: "\u2212KL",
    TraceMetric.PROXY: "proxy p",
}

_MOST_ROWS: Final = 40
"""Tokens of a picture that are shown before those before the subject are left out."""

_WINDOWED: Final = (TraceKind.MLP, TraceKind.ATTN)
_KINDS: Final = {
    TraceKind.UNSPECIFIED: "Unknown kind",
    TraceKind.HIDDEN: "Hidden state",
    TraceKind.MLP: "MLP outputs",
    TraceKind.ATTN: "Attention outputs",
    TraceKind.SEVERED_MLP: "Hidden state, MLPs severed",
    TraceKind.SEVERED_ATTN: "Hidden state, attention severed",
}
_HUES: Final = {TraceKind.MLP: Hue.GREEN, TraceKind.ATTN: Hue.RED}


def kind_title(kind: TraceKind, window: int) -> str:
    """A kind as a title; with its window where it has one."""
    if kind not in _WINDOWED:
        return _KINDS[kind]
    layers = "one layer at a time" if window == 1 else f"windows of {window} layers"
    return f"{_KINDS[kind]}, {layers}"


def layer_axis(kind: TraceKind) -> str:
    """What the columns of a kind's grid are."""
    return "layer at the window's centre" if kind in _WINDOWED else "layer restored"


def hue(kind: TraceKind) -> Hue:
    """The familiar colours: purple states, green MLPs, red attention."""
    return _HUES.get(kind, Hue.PURPLE)


def read_out(metric: TraceMetric, answer: str, foil: str = "", labels: Sequence[str] = ()) -> str:
    """What a score is of."""
    match metric:
        case TraceMetric.PROBABILITY:
            return f"p({quoted(answer, 24)})"
        case TraceMetric.LOG_PROBABILITY:
            return f"log p({quoted(answer, 24)})"
        case TraceMetric.LOGIT_DIFFERENCE:
            return f"logit of {quoted(answer, 16)} less {quoted(foil, 16)}"
        case TraceMetric.KL:
            return "\u2212KL(clean \u2016 run), nats"
        case TraceMetric.PROXY:
            return f"proxy p({quoted(labels[-1] if labels else 'positive', 24)})"
        case _:
            return "score"


def reading(metric: TraceMetric, clean: float, corrupted: float, *, named: str = "") -> str:
    """The scores of the runs in which nothing is restored; of what, where that is ``named``."""
    named = f"{named}, " if named else ""
    return (
        f"{named}{METRICS[metric]} {unsigned(clean)} clean, {unsigned(corrupted)} corrupted, "
        f"total effect {signed(clean - corrupted)}"
    )


def token_chart(
    tokens: Sequence[TracedToken],
    values: tuple[tuple[float, ...], ...],
    *,
    kind: TraceKind,
    window: int,
    unit: str,
) -> Chart:
    """A heat map of tokens down and layers across."""
    return Chart(
        title=kind_title(kind, window),
        form=ChartForm.HEAT_MAP,
        row_axis="token",
        column_axis=layer_axis(kind),
        rows=tuple(token.label for token in tokens),
        columns=tuple(str(layer) for layer in range(len(values[0]) if values else 0)),
        unit=unit,
        values=values,
    )


def peak(found: Peak, tokens: Sequence[TracedToken], *, name: str = "peak") -> str:
    """Where a grid is largest."""
    if not found.effect:
        return f"{name}: none, every cell is 0"
    token = quoted(tokens[found.token].text, 16)
    return f"{name} {signed(found.effect)} at {token}, layer {found.layer}"


def outlined(found: Peak, first: int) -> tuple[int, int] | None:
    """Row and column of a peak in a picture that begins at token ``first``."""
    return (found.token - first, found.layer) if found.token >= first else None


def first_shown(tokens: Sequence[TracedToken]) -> int:
    """The first token a picture shows: long prompts lose what stands before the subject."""
    if len(tokens) <= _MOST_ROWS:
        return 0
    return next((i for i, t in enumerate(tokens) if t.role is not TokenRole.BEFORE), 0)


def left_out(first: int) -> str:
    """What a picture says of the tokens it leaves out."""
    return f"{first} tokens before the subject have no effect and are left out. " if first else ""
