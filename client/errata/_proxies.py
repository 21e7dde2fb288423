"""Proxies: classifiers over what the model says at the end of a text, in place of an answer."""

from dataclasses import dataclass

from errata._types import short


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """A text and its label."""

    text: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A fitted logistic regression; `Client.trace` can trace what it says."""

    name: str
    suffix: str
    """Put behind every text."""

    words: tuple[str, ...]
    """Words whose probabilities are the features; empty for the last hidden state."""

    negative_label: str
    positive_label: str
    """The classifier gives the probability of this one."""

    features: int
    train_texts: int
    test_texts: int
    train_accuracy: float
    test_accuracy: float
    """On texts held out of the fit."""

    majority_accuracy: float
    """What always naming the commoner label gets on the held-out texts."""

    seed: int
    model_digest: str
    weights_digest: str

    @property
    def id(self) -> str:
        """The last part of the name: the digest of the stored classifier."""
        return short(self.name)
