"""How well attribution orders sites, against the exact causal trace of the same corrupted runs.

Random real known facts of the bundled model that it gives, single layers, log-probability,
ten samples, the same noise. A figure is the mean over facts of Spearman's rank correlation over
every site from the subject's first token on; before it both are nought by construction. The
long prompts name the subject, go on with ordinary prose, and then ask for the fact.
"""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import torch
import typer
from rich.console import Console
from rich.progress import track
from scipy.stats import spearmanr

from benchmarks.document import Document
from errata_server import files
from errata_server.domain.known_facts import KnownFact, KnownFacts
from errata_server.domain.locators import LocateRequest
from errata_server.domain.operations import Progress
from errata_server.domain.traces import Corruption, Metric, TraceKind, TraceRequest
from errata_server.engine.blocks import blocks_of
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.locate.attribution import KINDS, screen
from errata_server.engine.locate.case import Case, Steps
from errata_server.engine.locate.causal import Tracer
from errata_server.engine.locate.corruption import subject_sigma
from errata_server.engine.locate.table import Means, case_of
from errata_server.engine.runner import BASE, Runner

T = TypeVar("T")
LONG: Final = range(40, 61)
"""Tokens of a long prompt."""

log = Console(stderr=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt, and the answer the model gives to it."""

    prompt: str
    subject: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One prompt, both ways."""

    question: Question
    tokens: int
    correlations: dict[TraceKind, float]
    exact_seconds: float
    seconds: float

    @property
    def row(self) -> dict[str, object]:
        """As the document's details have it."""
        return {
            "prompt": self.question.prompt,
            "answer": self.question.answer,
            "tokens": self.tokens,
            **{kind.value: found for kind, found in self.correlations.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The bundled model, and how both ways are asked about it."""

    runner: Runner
    tracer: Tracer
    known: KnownFacts
    corruption: Corruption

    def questions(self, seed: int) -> Iterator[Question]:
        """Known facts that the model gives, in random order."""
        for fact in self._facts(seed):
            asked = Question(
                prompt=self.known.prompt(fact), subject=fact.subject, answer=fact.object
            )
            if self.tracer.predicts(asked.prompt, asked.answer):
                yield asked

    def long_questions(self, seed: int, prose: Sequence[str]) -> Iterator[Question]:
        """Those that it also gives behind the subject's name and prose."""
        chooser = random.Random(seed)
        for asked in self.questions(seed):
            prompt = f"{asked.subject}."
            for sentence in sentences(prose, chooser):
                longer = f"{prompt} {sentence}."
                if self.tokens(f"{longer} {asked.prompt}") >= LONG.stop:
                    break
                prompt = longer
            prompt = f"{prompt} {asked.prompt}"
            if self.tokens(prompt) in LONG and self.tracer.predicts(prompt, asked.answer):
                yield Question(prompt=prompt, subject=asked.subject, answer=asked.answer)

    def tokens(self, text: str) -> int:
        """Length of ``text``."""
        return len(self.runner.tokens.encode(text))

    def compare(self, question: Question) -> Agreement:
        """Ask both ways about one prompt."""
        request = TraceRequest(
            prompt=question.prompt,
            subject=question.subject,
            answer=question.answer,
            corruption=self.corruption,
            metric=Metric.LOG_PROBABILITY,
            window=1,
        )
        exact_seconds, exact = timed(lambda: self.tracer.trace(request, progress=_ignored))
        case, steps = self._case(question), Steps(_ignored, total=1)
        seconds, found = timed(lambda: screen(case, self.corruption, window=1, steps=steps))
        first = case.subject_positions[0]
        return Agreement(
            question=question,
            tokens=len(case.ids),
            correlations={
                grid.kind: rank_correlation(
                    found.grids[grid.kind].tolist()[first:], grid.scores[first:]
                )
                for grid in exact.grids
            },
            exact_seconds=exact_seconds,
            seconds=seconds,
        )

    def _case(self, question: Question) -> Case:
        request = LocateRequest(
            locator="attribution",
            prompt=question.prompt,
            subject=question.subject,
            answer=question.answer,
        )
        return case_of(self.runner, BASE, request, Means(known_facts=self.known))

    def _facts(self, seed: int) -> list[KnownFact]:
        facts = [fact for fact in self.known.facts if fact.source == "real"]
        random.Random(seed).shuffle(facts)
        return facts


def open_comparison(samples: int, seed: int) -> Comparison:
    """On the bundled model."""
    runner = Runner(load_checkpoint(str(files.BUNDLED_MODEL)))
    known = files.read_known_facts(None)
    blocks = blocks_of(runner.checkpoint)
    sigma = runner.run(lambda: subject_sigma(blocks, runner.tokens, known.subjects))
    return Comparison(
        runner=runner,
        tracer=Tracer(runner=runner, bank=BASE, sigma=sigma),
        known=known,
        corruption=Corruption(samples=samples, seed=seed),
    )


def sentences(prose: Sequence[str], chooser: random.Random) -> Iterator[str]:
    """Sentences of random texts, without their full stops."""
    while True:
        yield from chooser.choice(prose).split(". ")[:-1]


def rank_correlation(
    approximate: Sequence[Sequence[float]], exact: Sequence[Sequence[float]]
) -> float:
    """Spearman's rank correlation of two grids, cell by cell; nan where one is constant."""
    first, second = torch.tensor(approximate).flatten(), torch.tensor(exact).flatten()
    if len(first.unique()) < 2 or len(second.unique()) < 2:
        return math.nan
    return float(spearmanr(first.numpy(), second.numpy()).statistic)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """(seconds, what it returns)."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def correlations(found: Sequence[Agreement]) -> tuple[float, ...]:
    """The mean rank correlation of each kind."""
    return tuple(statistics.fmean(one.correlations[kind] for one in found) for kind in KINDS)


def times(found: Sequence[Agreement]) -> tuple[float, float]:
    """(seconds of an exact trace, of a screen), medians."""
    exact = statistics.median(one.exact_seconds for one in found)
    return exact, statistics.median(one.seconds for one in found)


def _ignored(_: Progress) -> None:
    """Progress within one prompt."""


def main(
    facts: Annotated[int, typer.Option(min=1, help="Prompts of either length.")] = 20,
    samples: Annotated[int, typer.Option(min=1, help="Corrupted runs of each prompt.")] = 10,
    seed: Annotated[int, typer.Option(help="Chooses facts, prose and noise.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure attribution against the exact causal trace."""
    torch.set_num_threads(1)  # small matrices: more threads only get into each other's way
    comparison = open_comparison(samples, seed)
    prose = files.read_texts(None).corpus
    found: list[list[Agreement]] = []
    try:
        # The first of either in a process also pays for what is set up once.
        comparison.compare(next(comparison.questions(seed)))
        asked = {
            "short": comparison.questions(seed),
            "long": comparison.long_questions(seed, prose),
        }
        for length, questions in asked.items():
            numbered = track(range(facts), description=length, console=log)
            compared = zip(numbered, questions, strict=False)
            found.append([comparison.compare(question) for _, question in compared])
    finally:
        comparison.runner.close()
    short, long = found
    hidden, mlp, attn = correlations(short)
    long_hidden, long_mlp, long_attn = correlations(long)
    (exact, screened), (long_exact, long_screened) = times(short), times(long)
    Document(
        benchmark="attribution",
        settings={"facts": facts, "samples": samples, "seed": seed, "window": 1, "threads": 1},
        figures={
            "rank_correlation_hidden": hidden,
            "rank_correlation_mlp": mlp,
            "rank_correlation_attn": attn,
            "rank_correlation_long_hidden": long_hidden,
            "rank_correlation_long_mlp": long_mlp,
            "rank_correlation_long_attn": long_attn,
            "seconds_exact": exact,
            "seconds_attribution": screened,
            "seconds_long_exact": long_exact,
            "seconds_long_attribution": long_screened,
        },
        details={
            length: [one.row for one in some] for length, some in zip(asked, found, strict=True)
        },
    ).show(as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
