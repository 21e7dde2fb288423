"""How well edits work: CounterFact's questions, by exact free generation, on known facts.

Each of ``--edits`` random known facts is edited to another object of its relation. The model
must know the fact on the prompt that is edited. Efficacy is the share of those prompts then
answered with the new object; paraphrase asks the fact's held-out phrasings; neighbourhood
asks other subjects of the relation, those that share the old object first, in held-out
phrasings, before and after. Regime ``single`` judges each edit alone, ``live`` all of them at
once. Nothing is teacher-forced.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track

from benchmarks.document import Document
from errata_server import files
from errata_server.domain.errors import NotCalibratedError
from errata_server.domain.facts import CheckPrompt, EditRequest, Fact
from errata_server.domain.known_facts import KnownFact, KnownFacts
from errata_server.domain.measurements import Answer
from errata_server.domain.operations import Progress
from errata_server.domain.patches import Composition
from errata_server.domain.profiles import Profile
from errata_server.engine import moments
from errata_server.engine.answers import perplexity
from errata_server.engine.bank import Bank, compose
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.editor import compute_patch
from errata_server.engine.measure import ask
from errata_server.engine.patch import PatchTensors
from errata_server.engine.runner import BASE, Runner
from errata_server.engine.solve import factor_second_moment

NEIGHBOURS = 8


class Regime(StrEnum):
    """How many edits are live while one is judged."""

    SINGLE = "single"
    LIVE = "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A known fact, what it is edited to, and the prompts that judge it."""

    request: EditRequest
    efficacy: CheckPrompt
    paraphrases: tuple[CheckPrompt, ...]
    neighbours: tuple[CheckPrompt, ...]


@dataclass(slots=True)
class Tally:
    """Answers of every case, and the perplexity of the fixed prose."""

    efficacy: list[Answer] = field(default_factory=list)
    paraphrases: list[Answer] = field(default_factory=list)
    neighbours: list[Answer] = field(default_factory=list)
    perplexity_ratios: list[float] = field(default_factory=list)
    converged: int = 0
    seconds: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Percentages, the mean and largest perplexity ratio, and seconds an edit."""
        return {
            "efficacy": _percent(answer.held_after for answer in self.efficacy),
            "paraphrase": _percent(answer.held_after for answer in self.paraphrases),
            "neighbourhood_before": _percent(answer.held_before for answer in self.neighbours),
            "neighbourhood_drop": _percent(answer.held_before for answer in self.neighbours)
            - _percent(answer.held_after for answer in self.neighbours),
            "perplexity_ratio": statistics.fmean(self.perplexity_ratios),
            "perplexity_ratio_largest": max(self.perplexity_ratios),
            "converged": 100 * self.converged / len(self.seconds),
            "seconds_per_edit": statistics.median(self.seconds),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The bundled model with its profile, as an edit needs them."""

    runner: Runner
    profile: Profile
    factor: torch.Tensor
    known: KnownFacts
    prose: Sequence[str]
    base_perplexity: float

    def patch(self, case: Case) -> PatchTensors:
        """The case's patch, computed as a proposal would."""
        return compute_patch(
            self.runner, case.request, self.profile, self.factor, progress=_ignored
        )

    def judge(self, cases: Sequence[Case], bank: Bank, tally: Tally) -> None:
        """Ask every prompt of ``cases`` with ``bank``."""
        tally.efficacy += ask(self.runner, [case.efficacy for case in cases], BASE, bank)
        paraphrases = [prompt for case in cases for prompt in case.paraphrases]
        tally.paraphrases += ask(self.runner, paraphrases, BASE, bank)
        neighbours = [prompt for case in cases for prompt in case.neighbours]
        tally.neighbours += ask(self.runner, neighbours, BASE, bank)
        edited = perplexity(self.runner, self.prose, bank)
        tally.perplexity_ratios.append(edited / self.base_perplexity)


def open_bench(cache: Path) -> Bench:
    """The bundled model, its profile and its second moment."""
    runner = Runner(load_checkpoint(str(files.BUNDLED_MODEL)))
    profile = files.read_bundled_profile()
    if profile is None:
        raise NotCalibratedError("the bundled model has no profile; run errata-server calibrate")
    texts = files.read_texts(None)
    moment = moments.collect(runner, texts.corpus, [profile.layer], cache=cache, progress=_ignored)[
        profile.layer
    ]
    return Bench(
        runner=runner,
        profile=profile,
        factor=factor_second_moment(moment.mean(), profile.ridge),
        known=files.read_known_facts(None),
        prose=texts.drift,
        base_perplexity=perplexity(runner, texts.drift, BASE),
    )


def choose_cases(bench: Bench, count: int, seed: int) -> list[Case]:
    """Cases over random facts about the real world that the model knows, all subjects apart."""
    chooser = random.Random(seed)
    facts = [fact for fact in bench.known.facts if fact.source != "invented"]
    chooser.shuffle(facts)
    cases: list[Case] = []
    subjects: set[str] = set()
    for fact in facts:
        if len(cases) == count:
            break
        case = None if fact.subject in subjects else _case(bench.known, fact, chooser)
        if case is not None and _knows(bench, case, fact):
            cases.append(case)
            subjects.add(fact.subject)
    return cases


def _case(known: KnownFacts, fact: KnownFact, chooser: random.Random) -> Case | None:
    objects = sorted({other.object for other in known.of_relation(fact.relation)} - {fact.object})
    if not objects:
        return None
    target = chooser.choice(objects)
    templates = known.templates[fact.relation]
    edited = chooser.choice([i for i in range(len(templates)) if i not in fact.held_out])
    return Case(
        request=EditRequest(
            subject=fact.subject, facts=(Fact(template=templates[edited], target=target),)
        ),
        efficacy=CheckPrompt(prompt=known.prompt(fact, edited), expected=target),
        paraphrases=tuple(
            CheckPrompt(prompt=known.prompt(fact, index), expected=target)
            for index in fact.held_out
        ),
        neighbours=tuple(
            CheckPrompt(prompt=known.prompt(other, index), expected=other.object)
            for other in _neighbours(known, fact, chooser)
            for index in other.held_out[:1]
        ),
    )


def _neighbours(known: KnownFacts, fact: KnownFact, chooser: random.Random) -> list[KnownFact]:
    """Other subjects of the relation, those that share the old object first."""
    others = [
        other
        for other in known.of_relation(fact.relation)
        if other.subject != fact.subject and other.source != "invented"
    ]
    chooser.shuffle(others)
    others.sort(key=lambda other: other.object != fact.object)
    return others[:NEIGHBOURS]


def _knows(bench: Bench, case: Case, fact: KnownFact) -> bool:
    prompt = CheckPrompt(prompt=case.efficacy.prompt, expected=fact.object)
    (answer,) = ask(bench.runner, [prompt], BASE, BASE)
    return answer.held_before


def run(bench: Bench, cases: Sequence[Case], regime: Regime) -> Tally:
    """Edit and judge every case."""
    tally = Tally()
    patches: list[PatchTensors] = []
    for case in track(cases, description=f"{regime} edits", console=Console(stderr=True)):
        start = time.perf_counter()
        patch = bench.patch(case)
        tally.seconds.append(time.perf_counter() - start)
        tally.converged += patch.manifest.optimisation.converged
        patches.append(patch)
        if regime is Regime.SINGLE:
            bench.judge([case], _bank(bench, [patch]), tally)
    if regime is Regime.LIVE:
        bench.judge(cases, _bank(bench, patches), tally)
    return tally


def _bank(bench: Bench, patches: Sequence[PatchTensors]) -> Bank:
    return compose(patches, Composition.GUARDED, bench.runner.device)


def _percent(held: Iterator[bool]) -> float:
    values = list(held)
    return 100 * sum(values) / len(values)


def _ignored(_: Progress) -> None:
    """Progress within one edit; the bar counts edits."""


def _misses(answers: Sequence[Answer]) -> list[dict[str, str]]:
    return [
        {"prompt": answer.prompt, "expected": answer.expected, "said": answer.after}
        for answer in answers
        if not answer.held_after
    ]


def main(
    edits: Annotated[int, typer.Option(min=1, help="Known facts to edit.")] = 100,
    regime: Annotated[Regime, typer.Option(help="One edit live at a time, or all.")] = (
        Regime.SINGLE
    ),
    seed: Annotated[int, typer.Option(help="Chooses facts, targets and neighbours.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure efficacy, paraphrase, neighbourhood and perplexity of edits."""
    with tempfile.TemporaryDirectory() as cache:
        bench = open_bench(Path(cache))
        try:
            cases = choose_cases(bench, edits, seed)
            tally = run(bench, cases, regime)
        finally:
            bench.runner.close()
    Document(
        benchmark="efficacy",
        settings={"edits": len(cases), "regime": regime.value, "seed": seed},
        figures=tally.figures(),
        details={
            "efficacy_misses": _misses(tally.efficacy),
            "paraphrase_misses": _misses(tally.paraphrases),
        },
    ).show(as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
