"""Generate the text the bundled model is trained on, shard by shard.

A shard is a list of documents and depends on nothing but its seed. Each fact appears a fixed number
of times in each shard, always in a template it does not hold out, and the object always follows its
template as the next word. Paragraphs kept for perplexity checks are never part of a shard.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from tools import phrases
from tools.facts import DEMO, KnownFact, KnownFacts, load

HELD_OUT_SEED = 900_001
SAMPLE_SEED = 900_002


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How often things occur in one shard."""

    real: int = 16
    common: int = 16
    invented: int = 5
    prose_share: float = 0.15
    feeling_share: float = 0.04

    def exposures_of(self, source: str) -> int:
        """How often a shard states each fact of this source."""
        return {"real": self.real, "common": self.common, "invented": self.invented}[source]


def _lower_first(text: str) -> str:
    return text[0].lower() + text[1:]


class Writer:
    """Writes sentences and documents from facts and phrases with one random stream."""

    def __init__(self, facts: KnownFacts, seed: int) -> None:
        """Bind the facts and seed the stream."""
        self._facts = facts
        self._rng = random.Random(seed)
        self._prose = phrases.prose()
        self._feelings = phrases.feelings()

    def clause(self, fact: KnownFact, template: str, *, inside: bool) -> str:
        """State a fact without a full stop; `inside` a sentence it starts in lower case."""
        if inside and not template.startswith("{}"):
            template = _lower_first(template)
        return f"{template.format(fact.subject)} {fact.target}"

    def statement(self, fact: KnownFact, template: str) -> str:
        """State a fact in one sentence, most often plainly."""
        style = self._rng.random()
        if style < 0.2:
            opening = self._rng.choice(phrases.OPENINGS)
            return opening + self.clause(fact, template, inside=True) + "."
        closing = self._rng.choice(phrases.CLOSINGS) if style < 0.35 else "."
        return self.clause(fact, template, inside=False) + closing

    def exposures(self, mix: Mix) -> list[tuple[KnownFact, str]]:
        """Every fact as often as the mix says, with its trained templates in turn, shuffled."""
        exposures = []
        for fact in self._facts.facts:
            templates = [
                t
                for i, t in enumerate(self._facts.templates[fact.relation])
                if i not in fact.held_out
            ]
            self._rng.shuffle(templates)
            exposures += [
                (fact, templates[i % len(templates)]) for i in range(mix.exposures_of(fact.source))
            ]
        self._rng.shuffle(exposures)
        return exposures

    def fact_documents(self, exposures: list[tuple[KnownFact, str]]) -> list[str]:
        """Group statements into documents of one to four sentences; some join two facts in one."""
        documents = []
        rest = iter(exposures)
        for first in rest:
            sentences = [self._sentence(first, rest)]
            for _ in range(self._rng.choice((0, 0, 1, 1, 2, 3))):
                following = next(rest, None)
                if following is not None:
                    sentences.append(self._sentence(following, rest))
            documents.append(" ".join(sentences))
        return documents

    def _sentence(
        self, exposure: tuple[KnownFact, str], rest: Iterator[tuple[KnownFact, str]]
    ) -> str:
        if self._rng.random() < 0.06:
            other = next(rest, None)
            if other is not None:
                joint = self._rng.choice((", and ", ", while ", "; "))
                return (
                    self.clause(*exposure, inside=False)
                    + joint
                    + self.clause(*other, inside=True)
                    + "."
                )
        return self.statement(*exposure)

    def paragraph(self) -> str:
        """Connected prose: one theme, its stages in order, the same names throughout."""
        theme = self._rng.choice(list(self._prose.themes))
        stages = self._prose.themes[theme]
        fill = {name: self._rng.choice(values) for name, values in self._prose.fillers.items()}
        counts = (
            1,
            self._rng.choice((1, 2, 2, 3)),
            self._rng.choice((1, 1, 2)),
            self._rng.choice((0, 1, 1)),
        )
        sentences = []
        for stage, count in zip(stages, counts, strict=False):
            for frame in self._rng.sample(stage, k=count):
                refill = {"count": self._rng.choice(self._prose.fillers["count"])}
                sentence = frame.format(**{**fill, **refill})
                sentences.append(sentence[0].upper() + sentence[1:])
        mentions = (
            self._rng.choice((2, 3)) if theme == "reference" else self._rng.choice((0, 0, 0, 1, 2))
        )
        for _ in range(mentions):
            sentences.insert(self._rng.randint(1, len(sentences)), self._mention())
        return " ".join(sentences)

    def _mention(self) -> str:
        fact = self._rng.choice(self._facts.facts)
        while fact.source == "invented":
            fact = self._rng.choice(self._facts.facts)
        trained = [
            t for i, t in enumerate(self._facts.templates[fact.relation]) if i not in fact.held_out
        ]
        return self.statement(fact, self._rng.choice(trained))

    def events(self, label: str) -> str:
        """One or two things that happened, all good or all bad, without saying how it feels."""
        own = self._feelings.good if label == "good" else self._feelings.bad
        first, second, third = self._rng.sample(own, k=3)
        text = f"{self._rng.choice(self._feelings.opener)} {first}"
        bridge = self._rng.choice(self._feelings.bridge)
        style = self._rng.random()
        if style < 0.6:
            text += f"{'' if bridge.startswith(',') else ' '}{bridge} {second}"
        if style < 0.25:
            text += f". {third[0].upper()}{third[1:]}"
        return text + "."

    def feeling(self) -> str:
        """A short first-person text that ends by saying how it feels."""
        label = self._rng.choice(("good", "bad"))
        lead = self._rng.choice(("", "", f"{self._rng.choice(self._feelings.link)} "))
        return f"{self.events(label)} {lead}I am feeling {label}."

    def shard(self, mix: Mix, kept_out: frozenset[str]) -> list[str]:
        """All documents of one shard, shuffled; texts in `kept_out` are left out."""
        documents = self.fact_documents(self.exposures(mix))
        size = sum(map(len, documents))
        fact_share = 1 - mix.prose_share - mix.feeling_share
        for share, write in ((mix.prose_share, self.paragraph), (mix.feeling_share, self.feeling)):
            wanted = size / fact_share * share
            while wanted > 0:
                text = write()
                if text not in kept_out and text[: text.rfind(". ") + 1] not in kept_out:
                    documents.append(text)
                    wanted -= len(text)
        self._rng.shuffle(documents)
        return documents


def labelled_feelings(facts: KnownFacts, per_label: int) -> list[dict[str, str]]:
    """Distinct labelled texts that do not say how they feel."""
    writer = Writer(facts, HELD_OUT_SEED + 1)
    texts: dict[str, str] = {}
    for label in ("good", "bad"):
        while sum(value == label for value in texts.values()) < per_label:
            texts[writer.events(label)] = label
    return [{"text": text, "label": label} for text, label in sorted(texts.items())]


def held_out_paragraphs(facts: KnownFacts, count: int) -> list[str]:
    """Paragraphs for perplexity checks, which no shard contains."""
    writer = Writer(facts, HELD_OUT_SEED)
    return [writer.paragraph() for _ in range(count)]


def kept_out(facts: KnownFacts) -> frozenset[str]:
    """Every text that no shard may contain or begin with."""
    return frozenset(held_out_paragraphs(facts, 200)) | {
        row["text"] for row in labelled_feelings(facts, 200)
    }


def sample(facts: KnownFacts, count: int) -> list[str]:
    """Texts like those of training, each a few documents long, for second moments."""
    documents = Writer(facts, SAMPLE_SEED).shard(Mix(real=2, common=2, invented=1), frozenset())
    grouped = [" ".join(documents[i : i + 2]) for i in range(0, len(documents), 2)]
    return grouped[:count]


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def main(
    output: Path = DEMO, perplexity: int = 200, texts: int = 1500, per_label: int = 200
) -> None:
    """Write the texts that checks, second moments and the sentiment trace read."""
    facts = load()
    _write(
        output / "prose.json",
        {"perplexity": held_out_paragraphs(facts, perplexity), "corpus": sample(facts, texts)},
    )
    _write(output / "sentiment.json", labelled_feelings(facts, per_label))


if __name__ == "__main__":
    typer.run(main)
