"""What the scripted engine says of where its facts lie: made up, but the same at every asking.

Restoring the last subject token brings back most of the answer; noise comes from the seed
and the prompt, so another seed gives other numbers.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from errata_server.domain.answers import begins_with
from errata_server.domain.errors import InvalidInputError, SubjectNotFoundError
from errata_server.domain.ids import Digest
from errata_server.domain.known_facts import KnownFacts
from errata_server.domain.locators import (
    Chart,
    ChartForm,
    LocateRequest,
    Location,
    Locator,
    LocatorOption,
)
from errata_server.domain.operations import ReportProgress
from errata_server.domain.patches import ServedWeights
from errata_server.domain.traces import (
    AverageTrace,
    CausalTrace,
    DroppedFact,
    EffectCurve,
    LabelledText,
    Metric,
    Provenance,
    Proxy,
    ProxyQuestion,
    TokenRole,
    TracedToken,
    TraceGrid,
    TraceKind,
    TraceRequest,
)

LAYERS: Final = 2
FEWEST_TEXTS: Final = 2
"""Texts of each label a proxy needs."""

LOCATORS: Final = (
    Locator(
        name="logit_lens",
        title="Logit lens",
        shows="At which layer the answer can first be read.",
        cannot_show="Whether the model uses it there.",
        source="nostalgebraist 2020",
        options=(
            LocatorOption(
                name="words", meaning="words shown a layer", default=1, minimum=1, maximum=5
            ),
        ),
    ),
    Locator(
        name="attention_knockout",
        title="Attention knockout",
        shows="Which layers carry the subject to the last token.",
        cannot_show="Where the fact is stored.",
        source="Geva 2023, arXiv:2304.14767",
    ),
)

_RESTORED: Final = {
    (TraceKind.HIDDEN, TokenRole.LAST_SUBJECT): (0.7, 0.4),
    (TraceKind.MLP, TokenRole.LAST_SUBJECT): (0.9, 0.2),
    (TraceKind.ATTN, TokenRole.LAST): (0.1, 0.6),
    (TraceKind.SEVERED_MLP, TokenRole.LAST_SUBJECT): (0.1, 0.3),
    (TraceKind.SEVERED_ATTN, TokenRole.LAST_SUBJECT): (0.6, 0.4),
}
"""Share of the lost answer that each layer brings back, of kinds and roles that bring any."""


class ScriptedTraces:
    """The methods of the `Engine` port that ask where a fact lies."""

    __slots__ = ()

    def _enter(self, method: str) -> None:
        raise NotImplementedError

    def _work(self, stage: str, progress: ReportProgress) -> None:
        raise NotImplementedError

    def base_digest(self) -> Digest:
        raise NotImplementedError

    def answer(self, prompt: str, weights: ServedWeights) -> str:
        raise NotImplementedError

    def fit(self, prompt: str) -> None:
        """Refuse a prompt beyond the context."""
        raise NotImplementedError

    def trace(
        self, request: TraceRequest, weights: ServedWeights, *, progress: ReportProgress
    ) -> CausalTrace:
        self._enter("trace")
        found = self._traced(request, weights)
        self._work("trace", progress)
        return found

    def average_trace(
        self, requests: Sequence[TraceRequest], weights: ServedWeights, *, progress: ReportProgress
    ) -> AverageTrace:
        self._enter("average_trace")
        self._work("trace", progress)
        found = [self._traced(request, weights) for request in requests]
        kept = [trace for trace in found if not trace.warnings]
        if not kept:
            raise InvalidInputError("the model knows none of the facts", field="facts")
        dropped = tuple(
            DroppedFact(prompt=trace.prompt, reason=trace.warnings[0])
            for trace in found
            if trace.warnings
        )
        return _average(kept, dropped)

    def fit_proxy(
        self,
        texts: Sequence[LabelledText],
        question: ProxyQuestion,
        weights: ServedWeights,
        *,
        positive: str,
        seed: int,
        progress: ReportProgress,
    ) -> Proxy:
        self._enter("fit_proxy")
        self._work("fit", progress)
        labels = [text.label for text in texts]
        (negative,) = {*labels} - {positive}
        if min(labels.count(positive), labels.count(negative)) < FEWEST_TEXTS:
            raise InvalidInputError("there are too few texts of one label", field="texts")
        for text in texts:
            self.fit(f"{text.text} {question.suffix}")
        features = len(question.words) or 4
        test = len(texts) // 4 or 1
        return Proxy(
            question=question,
            labels=(negative, positive),
            coefficients=tuple(_chance(seed, at) for at in range(features)),
            intercept=0.25,
            train_texts=len(texts) - test,
            test_texts=test,
            train_accuracy=0.9,
            test_accuracy=0.8,
            majority_accuracy=0.5,
            seed=seed,
            model_digest=self.base_digest(),
            weights_digest=weights.digest,
        )

    def locators(self) -> tuple[Locator, ...]:
        return LOCATORS

    def locate(
        self,
        request: LocateRequest,
        weights: ServedWeights,
        *,
        known_facts: KnownFacts,
        progress: ReportProgress,
    ) -> Location:
        self._enter("locate")
        self.fit(request.prompt)
        tokens = _tokens(request.prompt, request.subject)
        self._work("locate", progress)
        (locator,) = (found for found in LOCATORS if found.name == request.locator)
        predicted = self.answer(request.prompt, weights)
        chart = Chart(
            title=locator.title,
            form=ChartForm.HEAT_MAP,
            row_axis="token",
            column_axis="layer",
            rows=tuple(token.text for token in tokens),
            columns=tuple(str(layer) for layer in range(LAYERS)),
            unit="probability",
            values=tuple((0.5, None) for _ in tokens),
        )
        return Location(
            locator=locator,
            request=request,
            answer=request.answer or predicted,
            predicted=predicted,
            tokens=chart.rows,
            charts=(chart,),
            figures={"known_facts": float(len(known_facts.facts))},
            warnings=(),
            provenance=self._provenance(weights),
        )

    def _traced(self, request: TraceRequest, weights: ServedWeights) -> CausalTrace:
        self.fit(request.prompt)
        tokens = _tokens(request.prompt, request.subject)
        predicted = self.answer(request.prompt, weights)
        known = begins_with(predicted, request.answer or predicted)
        run = _Runs.of(request, 0.9 if known else 0.05)
        return CausalTrace(
            prompt=request.prompt,
            subject=request.subject,
            tokens=tokens,
            layers=LAYERS,
            answer=request.answer or predicted,
            answer_tokens=len((request.answer or predicted).split()),
            predicted=predicted,
            foil=request.foil,
            metric=request.metric,
            corruption=request.corruption,
            noise=0.0 if request.corruption.replacements else 0.1 * request.corruption.scale,
            noise_source="" if request.corruption.replacements else "scripted subjects",
            window=request.window,
            clean=run.clean,
            corrupted=run.corrupted,
            corrupted_samples=run.samples,
            grids=tuple(_grid(kind, tokens, run) for kind in request.kinds),
            warnings=() if known else (f"the model says {predicted!r} here",),
            provenance=self._provenance(weights),
            proxy_labels=request.proxy.labels if request.proxy is not None else (),
        )

    def _provenance(self, weights: ServedWeights) -> Provenance:
        return Provenance(
            model_digest=self.base_digest(),
            weights_digest=weights.digest,
            dtype="float32",
            device="cpu",
            torch="scripted",
            seconds=0.5,
        )


@dataclass(frozen=True, slots=True)
class _Runs:
    """Scores of the clean run and of the corrupted ones."""

    clean: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, request: TraceRequest, clean: float) -> "_Runs":
        corruption = request.corruption
        words = len(request.subject.split())
        if any(len(text.split()) != words for text in corruption.replacements):
            raise InvalidInputError(
                "a replacement has another number of tokens", field="replacements"
            )
        samples = len(corruption.replacements) or corruption.samples
        chances = (_chance(corruption.seed, request.prompt, at) for at in range(samples))
        left = tuple(clean * (0.1 + 0.1 * chance) for chance in chances)
        return cls(
            _scored(request.metric, clean, clean),
            tuple(_scored(request.metric, p, clean) for p in left),
        )

    @property
    def corrupted(self) -> float:
        return sum(self.samples) / len(self.samples)


def _scored(metric: Metric, probability: float, clean: float) -> float:
    match metric:
        case Metric.LOG_PROBABILITY:
            return math.log(probability)
        case Metric.LOGIT_DIFFERENCE:
            return math.log(probability / (1 - probability))
        case Metric.KL:
            return -clean * math.log(clean / probability)
        case _:
            return probability


def _grid(kind: TraceKind, tokens: Sequence[TracedToken], run: _Runs) -> TraceGrid:
    lost = run.clean - run.corrupted
    shares = (_RESTORED.get((kind, token.role), (0.0,) * LAYERS) for token in tokens)
    error = 0.01 if len(run.samples) > 1 else 0.0
    return TraceGrid(
        kind=kind,
        scores=tuple(tuple(run.corrupted + share * lost for share in row) for row in shares),
        standard_errors=((error,) * LAYERS,) * len(tokens),
    )


def _average(traces: Sequence[CausalTrace], dropped: tuple[DroppedFact, ...]) -> AverageTrace:
    first, effect = traces[0], _mean([trace.total_effect for trace in traces])
    return AverageTrace(
        facts=len(traces),
        dropped=dropped,
        layers=LAYERS,
        metric=first.metric,
        corruption=first.corruption,
        window=first.window,
        confidence=0.95,
        clean=_mean([trace.clean for trace in traces]),
        corrupted=_mean([trace.corrupted for trace in traces]),
        total_effect=effect,
        total_effect_low=effect - 0.01,
        total_effect_high=effect + 0.01,
        curves=tuple(
            _curve(traces, at, grid.kind, role)
            for at, grid in enumerate(first.grids)
            for role in TokenRole
            if any(token.role is role for trace in traces for token in trace.tokens)
        ),
        warnings=(),
        provenance=replace(first.provenance, seconds=0.5 * len(traces)),
    )


def _curve(
    traces: Sequence[CausalTrace], grid: int, kind: TraceKind, role: TokenRole
) -> EffectCurve:
    sites = [
        [trace.effect(trace.grids[grid], place, layer) for layer in range(LAYERS)]
        for trace in traces
        for place, token in enumerate(trace.tokens)
        if token.role is role
    ]
    effects = tuple(_mean(layer) for layer in zip(*sites, strict=True))
    return EffectCurve(
        kind=kind,
        role=role,
        sites=len({id(t) for t in traces if any(token.role is role for token in t.tokens)}),
        effects=effects,
        low=tuple(effect - 0.02 for effect in effects),
        high=tuple(effect + 0.02 for effect in effects),
    )


def _tokens(prompt: str, subject: str) -> tuple[TracedToken, ...]:
    """The words of ``prompt`` with their roles; all are the subject's where that is empty."""
    words, wanted = prompt.split(), subject.split() or prompt.split()
    starts = [at for at in range(len(words)) if words[at : at + len(wanted)] == wanted]
    if not starts:
        raise SubjectNotFoundError(
            f"the prompt {prompt!r} does not name {subject!r}", field="subject", subject=subject
        )
    first, end = starts[0], starts[0] + len(wanted)
    return tuple(
        TracedToken(
            text=word,
            role=_role(at, first, end, len(words)),
            corrupted=any(start <= at < start + len(wanted) for start in starts),
        )
        for at, word in enumerate(words)
    )


def _role(at: int, first: int, end: int, length: int) -> TokenRole:
    if at < first:
        return TokenRole.BEFORE
    if at < end:
        if at == end - 1:
            return TokenRole.LAST_SUBJECT
        return TokenRole.FIRST_SUBJECT if at == first else TokenRole.MIDDLE_SUBJECT
    if at == length - 1:
        return TokenRole.LAST
    return TokenRole.FIRST_SUBSEQUENT if at == end else TokenRole.FURTHER


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _chance(*parts: object) -> float:
    """A number from 0 to 1 that depends on ``parts`` alone."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
