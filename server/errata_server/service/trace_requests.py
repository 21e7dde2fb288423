"""What may be asked of `errata_server.service.traces` beside a single trace.

Invariant: a request that exists is well-formed; what only the model can tell, it is asked.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.known_facts import KnownFacts
from errata_server.domain.traces import (
    Corruption,
    LabelledText,
    Metric,
    ProxyQuestion,
    TraceKind,
    TraceRequest,
)

MOST_FACTS: Final = 10_000
"""Facts one average may be over."""

MOST_TEXTS: Final = 10_000
"""Labelled texts a proxy may be fitted on."""

DEFAULT_FACTS: Final = 100
"""Known facts drawn where nobody says how many."""

_LABELS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedFact:
    """One prompt with the subject it names."""

    prompt: str
    subject: str
    answer: str = ""
    """The model's own next word where empty."""

    def __post_init__(self) -> None:
        for name, text in (("prompt", self.prompt), ("subject", self.subject)):
            if not text.strip():
                raise InvalidInputError(f"the {name} is empty; give some text", field=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageRequest:
    """Many facts to trace in one way."""

    facts: tuple[TracedFact, ...]
    """The server's known facts where empty."""

    limit: int | None
    """So many of the known facts; None stands for `DEFAULT_FACTS`, or for facts that are given."""

    kinds: tuple[TraceKind, ...]
    corruption: Corruption
    metric: Metric
    window: int
    memory_mib: int

    def __post_init__(self) -> None:
        if len(self.facts) > MOST_FACTS:
            raise InvalidInputError(
                f"facts has {len(self.facts)} facts; at most {MOST_FACTS} are averaged",
                field="facts",
                limit=MOST_FACTS,
            )
        if self.limit is None:
            return
        if self.facts:
            raise InvalidInputError(
                "limit is for the server's known facts; leave it out where facts are given",
                field="limit",
            )
        if not 1 <= self.limit <= MOST_FACTS:
            raise InvalidInputError(
                f"limit must be from 1 to {MOST_FACTS}, not {self.limit}",
                field="limit",
                value=self.limit,
            )

    def traces(self, known: KnownFacts) -> tuple[TraceRequest, ...]:
        """A request a fact; those of ``known`` are drawn by the corruption's seed.

        Raises:
            InvalidInputError: there is no fact, or the way to trace them is malformed.
        """
        return tuple(
            TraceRequest(
                prompt=fact.prompt,
                subject=fact.subject,
                answer=fact.answer,
                kinds=self.kinds,
                corruption=self.corruption,
                metric=self.metric,
                window=self.window,
                memory_mib=self.memory_mib,
            )
            for fact in self.facts or self._drawn(known)
        )

    def _drawn(self, known: KnownFacts) -> Iterator[TracedFact]:
        if not known.facts:
            raise InvalidInputError("the server has no known facts; give some", field="facts")
        wanted = min(self.limit or DEFAULT_FACTS, len(known.facts))
        for fact in random.Random(self.corruption.seed).sample(known.facts, wanted):
            yield TracedFact(prompt=known.prompt(fact), subject=fact.subject, answer=fact.object)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRequest:
    """Labelled texts to fit a classifier on, and how to read them."""

    texts: tuple[LabelledText, ...]
    question: ProxyQuestion
    positive: str = ""
    """The label whose probability it gives; the first word, if that is a label, else the last
    in the alphabet where empty."""

    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.texts) > MOST_TEXTS:
            raise InvalidInputError(
                f"texts has {len(self.texts)} texts; at most {MOST_TEXTS} are fitted on",
                field="texts",
                limit=MOST_TEXTS,
            )
        labels = sorted({text.label for text in self.texts})
        if len(labels) != _LABELS:
            raise InvalidInputError(
                f"texts have {len(labels)} labels; a proxy tells two apart", field="texts"
            )
        words = self.question.words
        if len(set(words)) < len(words):
            raise InvalidInputError("give each word once", field="words")
        if self.positive and self.positive not in labels:
            raise InvalidInputError(
                f"positive_label is {self.positive!r}, which no text has; the labels are "
                f"{' and '.join(map(repr, labels))}",
                field="positive_label",
            )
        first = words[0] if words and words[0] in labels else labels[-1]
        object.__setattr__(self, "positive", self.positive or first)
        if not 0 <= self.seed < 2**32:
            raise InvalidInputError(
                f"seed must be from 0 to 2^32 - 1, not {self.seed}", field="seed", value=self.seed
            )
