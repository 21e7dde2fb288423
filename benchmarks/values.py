"""What the value optimisation costs against whole passes, and what holding other facts brings.

Without options: edits of random known facts, each residual found by whole passes and by
`errata_server.engine.values`, alone and in a batch, in turns so that a busy machine hits all
alike. With ``--same-subject``: edits of subjects of several known facts, whose other facts are
asked before and after, with the published term on what the subject is alone, and with the
subject's other relations held.
"""

import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer

from benchmarks import whole_passes
from benchmarks.document import Document
from errata_server import files
from errata_server.domain.errors import NotCalibratedError
from errata_server.domain.facts import CheckPrompt, EditRequest, Fact
from errata_server.domain.held import held_prompts
from errata_server.domain.known_facts import KnownFact, KnownFacts
from errata_server.domain.measurements import Answer
from errata_server.domain.operations import Progress
from errata_server.domain.patches import Composition
from errata_server.domain.profiles import Profile
from errata_server.engine import moments
from errata_server.engine.bank import compose
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.contexts import contexts_of
from errata_server.engine.editor import assemble, recognise
from errata_server.engine.measure import ask
from errata_server.engine.recall import Recall
from errata_server.engine.runner import BASE, Runner
from errata_server.engine.solve import factor_second_moment
from errata_server.engine.values import ValueSolution, optimise_value, optimise_values

T = TypeVar("T")
BATCH = 64
GROUP = 16
SEVERAL = 3
"""Known facts a subject must have for the others to be worth asking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One edit's residual by both ways."""

    whole: float
    fast: float
    processor_speedup: float
    """Of the two, by processor time of one process."""

    difference: float
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An edit of a subject with other known facts, and what is asked of it."""

    request: EditRequest
    others: tuple[CheckPrompt, ...]
    paraphrases: tuple[CheckPrompt, ...]


def ignored(_: Progress) -> None:
    """Progress nobody follows."""


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds, and what ``work`` gave."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def edit_of(known: KnownFacts, fact: KnownFact, chooser: random.Random) -> EditRequest:
    """``fact`` moved to another object of its relation, in a phrasing the model was taught."""
    objects = {other.object for other in known.of_relation(fact.relation)} - {fact.object}
    templates = known.templates[fact.relation]
    taught = next(i for i in range(len(templates)) if i not in fact.held_out)
    target = chooser.choice(sorted(objects))
    return EditRequest(
        subject=fact.subject, facts=(Fact(template=templates[taught], target=target),)
    )


def open_bundled() -> tuple[Runner, Profile, KnownFacts]:
    """The bundled model, its profile and its facts."""
    profile = files.read_bundled_profile()
    if profile is None:
        raise NotCalibratedError("the bundled model has no profile; run errata-server calibrate")
    return (
        Runner(load_checkpoint(str(files.BUNDLED_MODEL))),
        profile,
        files.read_known_facts(None),
    )


def compare(runner: Runner, profile: Profile, request: EditRequest) -> Timed:
    """Both ways to one residual, one after the other."""
    start = time.process_time()
    whole, slow = timed(lambda: whole_passes.optimise(runner, request, profile))
    between = time.process_time()
    fast, found = timed(lambda: optimise_value(runner, request, profile, progress=ignored))
    end = time.process_time()
    gap = found.residual - slow.residual
    return Timed(
        whole=whole,
        fast=fast,
        processor_speedup=(between - start) / (end - between),
        difference=float(gap.norm() / slow.residual.norm().clamp(min=1e-9)),
        largest=float(gap.abs().max()),
    )


def together(
    runner: Runner, profile: Profile, requests: Sequence[EditRequest], *, held: KnownFacts | None
) -> list[ValueSolution]:
    """Residuals found in groups, as a batch of proposals finds them."""
    contexts = [
        contexts_of(
            runner.tokens, one, profile, held=held_prompts(held, one) if held is not None else ()
        )
        for one in requests
    ]
    found: dict[int, ValueSolution] = {}
    for start in range(0, len(contexts), GROUP):
        part = contexts[start : start + GROUP]
        for index, solution in optimise_values(runner, part, profile, progress=ignored):
            found[start + index] = solution
    return [found[index] for index in range(len(contexts))]


def speed(edits: int, layer: int | None, seed: int) -> Document:
    """Seconds an edit: whole passes, alone, in a batch."""
    runner, profile, known = open_bundled()
    if layer is not None:
        profile = replace(profile, layer=layer, module=runner.checkpoint.projection_path(layer))
    chooser = random.Random(seed)
    facts = [fact for fact in known.facts if fact.source != "invented"]
    requests = [edit_of(known, fact, chooser) for fact in chooser.sample(facts, max(edits, BATCH))]
    rows = [compare(runner, profile, request) for request in requests[:edits]]
    batch = min(
        timed(lambda: together(runner, profile, requests[:BATCH], held=None))[0] for _ in range(2)
    )
    alone, _ = timed(
        lambda: [optimise_value(runner, one, profile, progress=ignored) for one in requests[:BATCH]]
    )
    runner.close()
    return Document(
        benchmark="values",
        settings={"edits": edits, "batch": BATCH, "layer": profile.layer, "seed": seed},
        figures={
            "speedup_single": statistics.median(row.whole / row.fast for row in rows),
            "speedup_single_cpu": statistics.median(row.processor_speedup for row in rows),
            "speedup_batch_64": alone / batch,
            "speedup_batch_64_against_whole_passes": statistics.fmean(row.whole for row in rows)
            / (batch / BATCH),
            "whole_seconds": statistics.median(row.whole for row in rows),
            "single_seconds": statistics.median(row.fast for row in rows),
            "batch_seconds_per_edit": batch / BATCH,
            "largest_delta_difference": max(row.difference for row in rows),
            "largest_entry_difference": max(row.largest for row in rows),
        },
    )


def choose_cases(known: KnownFacts, count: int, seed: int) -> list[Case]:
    """Edits of one fact of random subjects with several."""
    chooser = random.Random(seed)
    counts = Counter(fact.subject for fact in known.facts if fact.source != "invented")
    subjects = sorted(subject for subject, number in counts.items() if number >= SEVERAL)
    cases = []
    for subject in chooser.sample(subjects, min(count, len(subjects))):
        about = known.of_subject(subject)
        fact = chooser.choice(about)
        request = edit_of(known, fact, chooser)
        cases.append(
            Case(
                request=request,
                others=tuple(
                    CheckPrompt(prompt=known.prompt(other, index), expected=other.object)
                    for other in about
                    if other.relation != fact.relation
                    for index in other.held_out[:1]
                ),
                paraphrases=tuple(
                    CheckPrompt(prompt=known.prompt(fact, index), expected=request.facts[0].target)
                    for index in fact.held_out
                ),
            )
        )
    return cases


def same_subject(edits: int, seed: int) -> Document:
    """Other facts about the edited subjects, with and without holding them."""
    runner, profile, known = open_bundled()
    cases = choose_cases(known, edits, seed)
    texts = files.read_texts(None)
    with tempfile.TemporaryDirectory() as cache:
        collected = moments.collect(
            runner, texts.corpus, [profile.layer], cache=Path(cache), progress=ignored
        )
    factor = factor_second_moment(collected[profile.layer].mean(), profile.ridge)
    found = [_outcome(runner, profile, factor, cases, held=held) for held in (None, known)]
    runner.close()
    alone, held = found
    return Document(
        benchmark="values",
        settings={"edits": len(cases), "seed": seed},
        figures={
            "others_before": alone.others_before,
            "essence_others_drop": alone.others_drop,
            "held_others_drop": held.others_drop,
            "essence_paraphrase": alone.paraphrase,
            "held_paraphrase": held.paraphrase,
            "essence_converged": alone.converged,
            "held_converged": held.converged,
            "essence_steps": alone.steps,
            "held_steps": held.steps,
            "essence_seconds_per_edit": alone.seconds,
            "held_seconds_per_edit": held.seconds,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What edits came to, in percent; steps and seconds are means."""

    others_before: float
    others_drop: float
    paraphrase: float
    converged: float
    steps: float
    seconds: float


def _outcome(
    runner: Runner,
    profile: Profile,
    factor: torch.Tensor,
    cases: Sequence[Case],
    *,
    held: KnownFacts | None,
) -> Outcome:
    seconds, solutions = timed(
        lambda: together(runner, profile, [case.request for case in cases], held=held)
    )
    others: list[Answer] = []
    paraphrases: list[Answer] = []
    for case, solution in zip(cases, solutions, strict=True):
        (recognition,) = recognise(runner, [case.request], profile, factor)
        patch = assemble(runner, case.request, profile, recognition, solution)
        bank = compose([patch], Composition.GUARDED, runner.device)
        others += ask(Recall(runner), case.others, BASE, bank)
        paraphrases += ask(Recall(runner), case.paraphrases, BASE, bank)
    before = _percent([one.held_before for one in others])
    return Outcome(
        others_before=before,
        others_drop=before - _percent([one.held_after for one in others]),
        paraphrase=_percent([one.held_after for one in paraphrases]),
        converged=_percent([one.converged for one in solutions]),
        steps=statistics.fmean(one.steps for one in solutions),
        seconds=seconds / len(cases),
    )


def _percent(held: Sequence[bool]) -> float:
    return 100 * sum(held) / len(held)


def main(
    edits: Annotated[int, typer.Option(min=1, help="Known facts to edit.")] = 32,
    layer: Annotated[int | None, typer.Option(help="Edit there; else the profile's.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses facts and targets.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads torch may use.")] = 2,
    other_facts: Annotated[
        bool, typer.Option("--same-subject", help="Measure the subjects' other facts.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure the value optimisation."""
    torch.set_num_threads(threads)
    document = same_subject(edits, seed) if other_facts else speed(edits, layer, seed)
    document.show(as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
