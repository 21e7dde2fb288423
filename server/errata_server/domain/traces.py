"""Causal traces: what is asked, and the frozen result.

Invariants: a result says where its noise came from and which weights it was taken on; higher
scores always mean more of the answer; cells of tokens before the first corrupted one are the
corrupted run by proof, never computed. A trace explains, it does not choose the layer to edit
(Hase 2023, arXiv:2301.04213).
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import Digest, RevisionId

MAXIMUM_SAMPLES: Final = 1_000
MAXIMUM_WINDOW: Final = 1_000


class TraceKind(StrEnum):
    """What is restored in the corrupted run."""

    HIDDEN = "hidden"
    """One state of the residual stream, behind one layer."""

    MLP = "mlp"
    """The MLP outputs of a window of layers."""

    ATTN = "attn"
    """The attention outputs of a window of layers."""

    SEVERED_MLP = "severed_mlp"
    """One state, with the token's later MLP outputs held at their corrupted values."""

    SEVERED_ATTN = "severed_attn"
    """One state, with the token's later attention outputs held at their corrupted values."""


class Metric(StrEnum):
    """How much of the answer is left in a run; higher is more."""

    PROBABILITY = "probability"
    """Joint probability of the answer's tokens."""

    LOG_PROBABILITY = "log_probability"
    """Its natural logarithm."""

    LOGIT_DIFFERENCE = "logit_difference"
    """Logit of the answer's first token less the foil's."""

    KL = "kl"
    """-KL(clean || run) of the next token, in nats: 0 in the clean run."""

    PROXY = "proxy"
    """Probability a fitted classifier gives its positive label."""


class TokenRole(StrEnum):
    """Where a token stands; every token has one role, and averages are aligned on them."""

    FIRST_SUBJECT = "first_subject"
    MIDDLE_SUBJECT = "middle_subject"
    LAST_SUBJECT = "last_subject"
    """Also the one token of a one-token subject."""

    FIRST_SUBSEQUENT = "first_subsequent"
    FURTHER = "further"
    LAST = "last"
    """The prompt's last token, unless it is the subject's."""

    BEFORE = "before"
    """Before the subject: nothing there is corrupted, so there is no effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """How the subject is hidden: by noise on its embeddings, or by other subjects."""

    scale: float = 3.0
    """Noise, as a multiple of the standard deviation of subjects' embeddings."""

    samples: int = 10
    seed: int = 1
    replacements: tuple[str, ...] = ()
    """Subjects put in its place, a sample each, in place of noise (symmetric replacement)."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise InvalidInputError(
                f"the noise scale must be above 0, not {self.scale:g}: without noise there is "
                "no corrupted run to restore",
                field="scale",
                value=self.scale,
            )
        if not 1 <= self.samples <= MAXIMUM_SAMPLES:
            raise InvalidInputError(
                f"samples must be from 1 to {MAXIMUM_SAMPLES}, not {self.samples}",
                field="samples",
                value=self.samples,
            )
        if not 0 <= self.seed < 2**32:
            raise InvalidInputError(
                f"seed must be from 0 to 2^32 - 1, not {self.seed}", field="seed", value=self.seed
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyQuestion:
    """How a text is turned into features: the suffix behind it, and what is read there."""

    suffix: str = "I am feeling"
    words: tuple[str, ...] = ("good", "bad")
    """Words whose probabilities are the features; empty for the whole last hidden state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A logistic regression over what the model says at the end of a text."""

    question: ProxyQuestion
    labels: tuple[str, str]
    """(negative, positive): the classifier gives the probability of the second."""

    coefficients: tuple[float, ...]
    """One a feature; standardisation is folded in."""

    intercept: float
    train_texts: int
    test_texts: int
    train_accuracy: float
    test_accuracy: float
    """On texts held out of the fit."""

    majority_accuracy: float
    """What always naming the commoner label gets on the held-out texts."""

    seed: int
    model_digest: Digest
    weights_digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """A text and its label."""

    text: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """One prompt to trace."""

    prompt: str
    subject: str
    """Corrupted wherever the prompt names it; may be empty with a proxy: then all of it."""

    answer: str = ""
    """What the score is of; the model's own next word where empty."""

    foil: str = ""
    """For the logit difference; the corrupted run's favourite where empty."""

    kinds: tuple[TraceKind, ...] = (TraceKind.HIDDEN, TraceKind.MLP, TraceKind.ATTN)
    corruption: Corruption = field(default_factory=Corruption)
    metric: Metric = Metric.PROBABILITY
    proxy: Proxy | None = None
    window: int = 10
    """Layers restored together for `TraceKind.MLP` and `TraceKind.ATTN`."""

    memory_mib: int = 1024
    """Most memory the cells in flight may take; less means more walks through the layers."""

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise InvalidInputError("the prompt is empty; give some text", field="prompt")
        if not self.subject.strip() and self.proxy is None:
            raise InvalidInputError(
                "the subject is empty; name the words to corrupt", field="subject"
            )
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise InvalidInputError("give each kind of trace once, at least one", field="kinds")
        if (self.metric is Metric.PROXY) != (self.proxy is not None):
            raise InvalidInputError(
                "the proxy metric needs a fitted proxy, and a proxy that metric", field="metric"
            )
        self._require_read()
        if not 1 <= self.window <= MAXIMUM_WINDOW:
            raise InvalidInputError(
                f"window must be from 1 to {MAXIMUM_WINDOW}, not {self.window}",
                field="window",
                value=self.window,
            )
        if self.memory_mib < 1:
            raise InvalidInputError(
                f"memory_mib must be at least 1, not {self.memory_mib}",
                field="memory_mib",
                value=self.memory_mib,
            )

    def _require_read(self) -> None:
        """Refuse words that the metric would pass over."""
        if self.foil and self.metric is not Metric.LOGIT_DIFFERENCE:
            raise InvalidInputError(
                f"a foil goes with the metric logit_difference, not with {self.metric.value}; "
                "leave one of the two out",
                field="foil",
            )
        if self.answer and self.proxy is not None:
            raise InvalidInputError(
                "a proxy reads its own labels; leave the answer out", field="answer"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedToken:
    """One token of the prompt."""

    text: str
    role: TokenRole
    corrupted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceGrid:
    """The restored scores of one kind: rows are tokens, columns layers."""

    kind: TraceKind
    scores: tuple[tuple[float, ...], ...]
    """Mean over the samples with that site restored."""

    standard_errors: tuple[tuple[float, ...], ...]
    """Of the paired difference to the corrupted run; 0 for a single sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The cell of a grid with the largest indirect effect."""

    kind: TraceKind
    token: int
    layer: int
    effect: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a measurement was taken on."""

    model_digest: Digest
    weights_digest: Digest
    dtype: str
    device: str
    torch: str
    seconds: float
    revision: RevisionId = field(default=RevisionId(""))
    sequence: int = 0
    branch: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalTrace:
    """How far restoring each site brings the answer back."""

    prompt: str
    subject: str
    tokens: tuple[TracedToken, ...]
    layers: int
    answer: str
    answer_tokens: int
    predicted: str
    """The model's own next word in the clean run."""

    foil: str
    metric: Metric
    corruption: Corruption
    noise: float
    """Standard deviation of the noise as added; 0 with replacements."""

    noise_source: str
    """What sigma was taken from, such as ``1209 known subjects``; empty with replacements."""

    window: int
    clean: float
    corrupted: float
    """Mean of ``corrupted_samples``."""

    corrupted_samples: tuple[float, ...]
    grids: tuple[TraceGrid, ...]
    warnings: tuple[str, ...]
    provenance: Provenance
    proxy_labels: tuple[str, str] | tuple[()] = ()

    @property
    def total_effect(self) -> float:
        """Clean less corrupted."""
        return self.clean - self.corrupted

    def effect(self, grid: TraceGrid, token: int, layer: int) -> float:
        """Indirect effect of a site: restored less corrupted."""
        return grid.scores[token][layer] - self.corrupted

    def peak(self, grid: TraceGrid) -> Peak:
        """The site with the largest indirect effect; it explains, it chooses no layer to edit."""
        effect, token, layer = max(
            (self.effect(grid, token, layer), -token, -layer)
            for token in range(len(self.tokens))
            for layer in range(self.layers)
        )
        return Peak(kind=grid.kind, token=-token, layer=-layer, effect=effect)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectCurve:
    """Average indirect effect of one kind at one role, by layer, with bootstrap bounds."""

    kind: TraceKind
    role: TokenRole
    sites: int
    """Facts that have a token of this role."""

    effects: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedFact:
    """A fact that was not traced, and why."""

    prompt: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageTrace:
    """Average indirect effects over many facts, aligned on the roles of tokens."""

    facts: int
    dropped: tuple[DroppedFact, ...]
    layers: int
    metric: Metric
    corruption: Corruption
    window: int
    confidence: float
    clean: float
    corrupted: float
    total_effect: float
    total_effect_low: float
    total_effect_high: float
    curves: tuple[EffectCurve, ...]
    warnings: tuple[str, ...]
    provenance: Provenance
