"""Read-outs: how much of the answer is left in the states behind the last layer.

Invariant: a score is a number for which more is more of the answer, in fp32 or better.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from errata_server.domain.traces import Metric, Proxy
from errata_server.engine.blocks import Blocks
from errata_server.engine.locate.proxy import proxy_scores

LOGITS: Final = 1 << 24
"""Logits computed together: they are the widest tensors of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout(abc.ABC):
    """Scores the states at the last ``kept`` positions of a run."""

    blocks: Blocks
    kept: int

    def scores(self, final: Float[Tensor, "*rows kept d_model"]) -> Float[Tensor, "*rows"]:
        """A score a row."""
        rows = final.reshape(-1, self.kept, final.shape[-1])
        together = max(1, LOGITS // (self.kept * self.blocks.vocabulary))
        scored = [self._score(part) for part in rows.split(together)]
        return torch.cat(scored).reshape(final.shape[:-2])

    @abc.abstractmethod
    def _score(self, final: Float[Tensor, "row kept d_model"]) -> Float[Tensor, " row"]:
        """A score a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _AnswerReadout(Readout):
    answer: tuple[int, ...]
    logarithm: bool

    def _score(self, final: Tensor) -> Tensor:
        scores = functional.log_softmax(self.blocks.logits(final), dim=-1)
        places = torch.arange(self.kept, device=scores.device)
        picked = scores[:, places, torch.tensor(self.answer, device=scores.device)].sum(dim=1)
        return picked if self.logarithm else picked.exp()


@dataclass(frozen=True, slots=True, kw_only=True)
class _DifferenceReadout(Readout):
    answer: int
    foil: int

    def _score(self, final: Tensor) -> Tensor:
        logits = self.blocks.logits(final[:, 0])
        return logits[:, self.answer] - logits[:, self.foil]


@dataclass(frozen=True, slots=True, kw_only=True)
class _DivergenceReadout(Readout):
    clean: Float[Tensor, " vocab"]
    """Log-probabilities of the clean run."""

    def _score(self, final: Tensor) -> Tensor:
        scores = functional.log_softmax(self.blocks.logits(final[:, 0]), dim=-1)
        return -(self.clean.exp() * (self.clean - scores)).sum(dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ProxyReadout(Readout):
    proxy: Proxy
    words: tuple[int, ...]

    def _score(self, final: Tensor) -> Tensor:
        return proxy_scores(self.blocks, self.proxy, self.words, final[:, 0])


def answer_readout(
    blocks: Blocks,
    metric: Metric,
    *,
    answer: Sequence[int],
    foil: int,
    clean: Float[Tensor, " vocab"],
) -> Readout:
    """The read-out of an answer of one or more tokens.

    The joint probability needs the states before each of the answer's tokens; the logit
    difference and the divergence are of the next token alone.

    Args:
        clean: Log-probabilities of the next token in the clean run.
    """
    if metric is Metric.LOGIT_DIFFERENCE:
        return _DifferenceReadout(blocks=blocks, kept=1, answer=answer[0], foil=foil)
    if metric is Metric.KL:
        return _DivergenceReadout(blocks=blocks, kept=1, clean=clean)
    return _AnswerReadout(
        blocks=blocks,
        kept=len(answer),
        answer=tuple(answer),
        logarithm=metric is Metric.LOG_PROBABILITY,
    )


def proxy_readout(blocks: Blocks, proxy: Proxy, words: Sequence[int]) -> Readout:
    """The read-out of a fitted classifier; ``words`` are the ids of its question's words."""
    return _ProxyReadout(blocks=blocks, kept=1, proxy=proxy, words=tuple(words))
