"""Prose: what live edits do to the likelihood of the fixed texts, token by token, and why.

A text that states what was edited away has to become less likely: an edit that left it alone
would not be true. Those tokens are told apart from the rest, which no edit has to touch.
Invariant: each predicted token has one part, so that the parts' shares add up to the whole rise.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from benchmarks.editing.cases import Case
from benchmarks.editing.firings import Firing, Guards
from benchmarks.editing.methods import Condition
from errata_server.engine.answers import SCORED_TOKENS, in_batches, token_losses
from errata_server.engine.bank import Bank
from errata_server.engine.runner import BASE, Runner

SENTENCE_END: Final = re.compile(r"[.!?][\"'”]?\s+(?=[\"'“A-Z])|\n")
SEVERAL: Final = 20
"""Tokens that rise most and are named."""


class Part(StrEnum):
    """Why the likelihood of a token may have changed."""

    TOLD = "told"
    """The sentence named an edit's subject, and this is of the object that was edited away."""

    SUBJECT = "subject"
    """Anything else in the sentence, behind its subject, whose own edit fired."""

    FALSE = "false"
    """In the sentence, behind an edit that fired where its subject is not named."""

    REST = "rest"
    """Nothing fired in the sentence so far: what is left sees earlier ones by attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of a text, and how well either model predicts it."""

    text: int
    piece: str
    part: Part
    subject: str
    """Of the edit that fired last in the sentence; empty where none did."""

    before: float
    after: float
    """Negative log-likelihoods, in nats."""

    @property
    def rise(self) -> float:
        """What the edits cost it."""
        return self.after - self.before


def look_at_prose(
    guards: Guards, cases: Sequence[Case], condition: Condition
) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures and details of the fixed texts under the edits of ``cases``."""
    found = list(tokens_of(guards, cases, condition))
    untold = [token for token in found if token.part is not Part.TOLD]
    whole = math.fsum(token.rise for token in found)
    rises = {part: math.fsum(token.rise for token in found if token.part is part) for part in Part}
    figures = {
        "told_tokens": float(len(found) - len(untold)),
        "perplexity_ratio_untold": math.exp(
            math.fsum(token.rise for token in untold) / max(len(untold), 1)
        ),
    }
    if whole:
        figures |= {f"rise_{part.value}": 100 * rises[part] / whole for part in Part}
    most = sorted(untold, key=lambda token: -token.rise)[:SEVERAL]
    details: dict[str, Any] = {
        "nats": {part.value: rises[part] for part in Part},
        "tokens": {part.value: sum(token.part is part for token in found) for part in Part},
        "told": [_row(token) for token in found if token.part is Part.TOLD],
        "rise_most_untold": [_row(token) for token in most],
    }
    return figures, details


def _row(token: Token) -> dict[str, object]:
    return {
        "text": token.text,
        "token": token.piece,
        "part": token.part.value,
        "subject": token.subject,
        "before": round(token.before, 3),
        "after": round(token.after, 3),
    }


def tokens_of(guards: Guards, cases: Sequence[Case], condition: Condition) -> Iterator[Token]:
    """Every predicted token of the fixed texts, cut to the context."""
    runner, texts = guards.bench.runner, guards.bench.texts.drift
    objects: dict[str, str] = {case.request.subject: case.true for case in cases}
    fired: defaultdict[int, list[Firing]] = defaultdict(list)
    for firing in guards.firings(texts):
        fired[firing.text].append(firing)
    rows = [runner.tokens.encode(text)[: runner.tokens.context] for text in texts]
    before, after = (list(_losses(runner, rows, bank)) for bank in (BASE, condition.bank))
    for index, text in enumerate(texts):
        reading = Reading.of(runner, text)
        parts = reading.parts(fired[index], objects)
        for token, (part, subject) in enumerate(parts[1:], start=1):
            yield Token(
                text=index,
                piece=reading.piece(token),
                part=part,
                subject=subject,
                before=before[index][token - 1],
                after=after[index][token - 1],
            )


@dataclass(frozen=True, slots=True)
class Reading:
    """A text with the characters of each of its tokens that fit the context."""

    text: str
    spans: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, runner: Runner, text: str) -> "Reading":
        """``text`` as ``runner``'s model reads it."""
        return cls(text, runner.tokens.encoded(text).offsets[: runner.tokens.context])

    def piece(self, token: int) -> str:
        """The characters of one token."""
        start, end = self.spans[token]
        return self.text[start:end]

    def parts(
        self, firings: Sequence[Firing], objects: Mapping[str, str]
    ) -> list[tuple[Part, str]]:
        """(part, subject) of every token.

        Args:
            firings: Those in this text.
            objects: What was edited away, by the edit's subject.
        """
        found = [(Part.REST, "")] * len(self.spans)
        for firing in sorted(firings, key=lambda one: one.token):
            named = self.names(firing)
            part = Part.SUBJECT if named else Part.FALSE
            behind = range(firing.token + 1, self.sentence_end(firing.token))
            for token in behind:
                if found[token][0] is not Part.TOLD:
                    found[token] = (part, firing.subject)
            if named:
                for token in self.holding(objects[firing.subject], behind):
                    found[token] = (Part.TOLD, firing.subject)
        return found

    def names(self, firing: Firing) -> bool:
        """Whether the subject of ``firing``'s edit is named, and ends where it fired."""
        begin, end = self.spans[firing.token]
        mentions = re.finditer(re.escape(firing.subject), self.text, re.IGNORECASE)
        return any(begin < mention.end() <= end for mention in mentions)

    def sentence_end(self, token: int) -> int:
        """The first token of the next sentence."""
        end = SENTENCE_END.search(self.text, self.spans[token][1])
        stop = len(self.text) if end is None else end.end()
        return sum(begin < stop for begin, _ in self.spans)

    def holding(self, words: str, tokens: range) -> list[int]:
        """Those of ``tokens`` that hold some of ``words``."""
        pattern = rf"(?<!\w){re.escape(words)}(?!\w)"
        places = [m.span() for m in re.finditer(pattern, self.text)] if words else []
        return [
            token
            for token in tokens
            if any(self.spans[token][0] < end and self.spans[token][1] > at for at, end in places)
        ]


def _losses(
    runner: Runner, rows: Sequence[Sequence[int]], bank: Bank
) -> Iterator[tuple[float, ...]]:
    for some in in_batches(rows, len, tokens=SCORED_TOKENS):
        yield from token_losses(runner, some, bank)
