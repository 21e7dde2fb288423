"""The parts of causal traces: kinds, metrics, roles, tokens, grids, and what they were taken on."""

from dataclasses import dataclass
from enum import StrEnum

from errata._charts import label


class TraceKind(StrEnum):
    """What is restored in the corrupted run."""

    UNSPECIFIED = "unspecified"
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


class TraceMetric(StrEnum):
    """How much of the answer is left in a run; higher is more."""

    UNSPECIFIED = "unspecified"
    PROBABILITY = "probability"
    """Joint probability of the answer's tokens."""

    LOG_PROBABILITY = "log_probability"
    LOGIT_DIFFERENCE = "logit_difference"
    """Logit of the answer's first token less the foil's."""

    KL = "kl"
    """-KL(clean || run) of the next token, in nats."""

    PROXY = "proxy"
    """Probability a fitted classifier gives its positive label."""


class TokenRole(StrEnum):
    """Where a token stands in its prompt."""

    UNSPECIFIED = "unspecified"
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
    """How the subject was hidden."""

    scale: float
    """Noise as a multiple of the standard deviation of subjects' embeddings."""

    samples: int
    seed: int
    replacements: tuple[str, ...] = ()
    """Subjects put in its place, a sample each, in place of noise."""

    @property
    def words(self) -> str:
        """The corruption as people name it."""
        if self.replacements:
            return f"{len(self.replacements)} other subjects in its place"
        return f"noise of {self.scale:g} \u03c3, {self.samples} samples, seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedToken:
    """One token of the prompt."""

    text: str
    role: TokenRole
    corrupted: bool

    @property
    def label(self) -> str:
        """The token on one short line, starred where it is corrupted."""
        return f"{label(self.text)}*" if self.corrupted else label(self.text)


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
    """The site of a grid with the largest indirect effect."""

    kind: TraceKind
    token: int
    layer: int
    effect: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a measurement was taken on."""

    model_digest: str
    weights_digest: str
    dtype: str
    device: str
    torch: str
    seconds: float
    revision: str = ""
    sequence: int = 0
    branch: str = ""

    @property
    def words(self) -> str:
        """The revision as people name it."""
        return f"revision {self.sequence} on {self.branch}" if self.branch else "the base model"
