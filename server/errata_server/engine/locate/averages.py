"""Average indirect effects over many facts, aligned on the roles of their tokens.

Each fact counts once in each role it has: a role's effect in a fact is the mean over its tokens
of that role. Bounds are percentile bootstrap over facts. Departures from the published roll-up,
which pools tokens and clips negative effects at zero: none are clipped, and no token counts in
two roles.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from errata_server.domain.errors import (
    InvalidFactError,
    InvalidInputError,
    PromptTooLongError,
    SubjectNotFoundError,
)
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.domain.traces import (
    AverageTrace,
    CausalTrace,
    DroppedFact,
    EffectCurve,
    TokenRole,
    TraceGrid,
    TraceKind,
    TraceRequest,
)
from errata_server.engine.locate.causal import Tracer

RESAMPLES: Final = 2_000
CONFIDENCE: Final = 0.95
FEW: Final = 20
"""Facts below which the bounds are not worth much."""

_UNFIT: Final = (InvalidFactError, InvalidInputError, PromptTooLongError, SubjectNotFoundError)
"""What one fact can be at fault for; the others are averaged without it."""

Curves = dict[tuple[TraceKind, TokenRole], list[NDArray[np.float64]]]


def average_trace(
    tracer: Tracer, requests: Sequence[TraceRequest], *, progress: ReportProgress
) -> AverageTrace:
    """Trace every request whose answer the model gives, and average.

    Raises:
        InvalidInputError: no fact is left.
        CancelledError: ``progress`` asked for it.
    """
    curves: Curves = defaultdict(list)
    totals: list[tuple[float, float]] = []
    dropped: list[DroppedFact] = []
    last: CausalTrace | None = None
    for index, request in enumerate(requests):
        note = f"{len(totals)} traced, {len(dropped)} dropped"
        at = Progress(stage="average", done=index, total=len(requests), note=note)
        progress(at)
        try:
            _require_known(tracer, request)
            # Cancelling must not wait for a whole trace.
            last = tracer.trace(request, progress=lambda _, at=at: progress(at))  # type: ignore[misc]
        except _UNFIT as error:
            dropped.append(DroppedFact(prompt=request.prompt, reason=str(error)))
            continue
        totals.append((last.clean, last.corrupted))
        for grid in last.grids:
            for role, effects in _by_role(last, grid).items():
                curves[grid.kind, role].append(effects)
    if last is None:
        raise InvalidInputError(
            f"none of the {len(requests)} facts can be averaged; the first was dropped because "
            f"{dropped[0].reason}",
            field="facts",
        )
    return _average(last, np.array(totals), curves, tuple(dropped))


def _require_known(tracer: Tracer, request: TraceRequest) -> None:
    """Do nothing if the model gives the answer.

    Raises:
        InvalidFactError: it says something else next, or the answer has no tokens of its own.
        SubjectNotFoundError: the prompt does not name the subject.
        PromptTooLongError: the prompt does not fit the context.
    """
    tracer.runner.tokens.mentions(request.prompt, request.subject)
    if request.answer and not tracer.predicts(request.prompt, request.answer):
        raise InvalidFactError(
            f"the model does not say {request.answer!r} next", field="answer", answer=request.answer
        )


def _by_role(trace: CausalTrace, grid: TraceGrid) -> dict[TokenRole, NDArray[np.float64]]:
    """Mean effect by layer of each role the prompt has; nothing before the subject."""
    effects = np.array(grid.scores) - trace.corrupted
    rows = defaultdict(list)
    for token, row in zip(trace.tokens, effects, strict=True):
        if token.role is not TokenRole.BEFORE:
            rows[token.role].append(row)
    return {role: np.mean(some, axis=0) for role, some in rows.items()}


def _average(
    one: CausalTrace,
    totals: NDArray[np.float64],
    curves: Curves,
    dropped: tuple[DroppedFact, ...],
) -> AverageTrace:
    """The averages over traces that were all made like ``one``."""
    lost = totals[:, 0] - totals[:, 1]
    (low,), (high,) = _bounds(lost[:, None], one.corruption.seed)
    few = f"{len(totals)} facts are few: the bounds are rough"
    windows = [warning for warning in one.warnings if "window" in warning]
    return AverageTrace(
        facts=len(totals),
        dropped=dropped,
        layers=one.layers,
        metric=one.metric,
        corruption=one.corruption,
        window=one.window,
        confidence=CONFIDENCE,
        clean=float(totals[:, 0].mean()),
        corrupted=float(totals[:, 1].mean()),
        total_effect=float(lost.mean()),
        total_effect_low=float(low),
        total_effect_high=float(high),
        curves=tuple(
            _curve(kind, role, np.array(rows), one.corruption.seed)
            for (kind, role), rows in sorted(curves.items(), key=_order)
        ),
        warnings=(*windows, *([few] if len(totals) < FEW else [])),
        provenance=one.provenance,
    )


def _order(item: tuple[tuple[TraceKind, TokenRole], object]) -> tuple[int, int]:
    kind, role = item[0]
    return list(TraceKind).index(kind), list(TokenRole).index(role)


def _curve(kind: TraceKind, role: TokenRole, rows: NDArray[np.float64], seed: int) -> EffectCurve:
    low, high = _bounds(rows, seed)
    return EffectCurve(
        kind=kind,
        role=role,
        sites=len(rows),
        effects=tuple(rows.mean(axis=0).tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
    )


def _bounds(
    rows: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile bootstrap bounds of the mean of each column, over rows."""
    chance = np.random.default_rng(seed)
    # How often each row is drawn says all: the means are one product, whatever the width.
    drawn = chance.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), RESAMPLES)
    means = drawn @ rows / len(rows)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high
