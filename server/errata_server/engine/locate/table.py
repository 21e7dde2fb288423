"""The table of locators, and the one way to run a row of it.

Invariant: every result says what was asked, what the model itself predicts, and the weights it
was taken on; the answer is fixed before a locator runs.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from errata_server.domain.errors import LocatorNotFoundError
from errata_server.domain.known_facts import NO_KNOWN_FACTS, KnownFacts
from errata_server.domain.locators import LocateRequest, Location, Locator
from errata_server.domain.operations import ReportProgress
from errata_server.domain.profiles import Profile
from errata_server.engine.bank import Bank
from errata_server.engine.blocks import blocks_of
from errata_server.engine.locate import (
    attributes,
    attribution,
    editing_sweep,
    granger,
    knockout,
    knowledge_neurons,
    lens,
)
from errata_server.engine.locate.case import Case, Row
from errata_server.engine.locate.provenance import provenance
from errata_server.engine.runner import Runner

# One line a locator; each module has a ROW of its own.
ROWS: Final[Mapping[str, Row]] = {
    row.locator.name: row
    for row in (
        attributes.ROW,
        attribution.ROW,
        editing_sweep.ROW,
        granger.ROW,
        knockout.ROW,
        knowledge_neurons.ROW,
        lens.LOGIT_ROW,
        lens.TUNED_ROW,
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What an engine has for its locators beside the model."""

    texts: tuple[str, ...] = ()
    known_facts: KnownFacts = NO_KNOWN_FACTS
    profile: Profile | None = None
    cache: Path | None = None


def locators() -> tuple[Locator, ...]:
    """Every locator of the table, by name."""
    return tuple(ROWS[name].locator for name in sorted(ROWS))


def locate(
    runner: Runner, bank: Bank, request: LocateRequest, *, means: Means, progress: ReportProgress
) -> Location:
    """Ask one locator about one fact.

    Raises:
        LocatorNotFoundError: the table has no such row.
        InvalidInputError: an option is unknown or out of range.
        InvalidFactError: the answer has no tokens.
        SubjectNotFoundError: the prompt does not name the subject.
        PromptTooLongError: the prompt does not fit the context.
        NotCalibratedError: the locator edits, and the model has no profile.
        CancelledError: ``progress`` asked for it.
    """
    began = time.perf_counter()
    row = _row(request.locator)
    options = row.locator.chosen(request.options)
    case = case_of(runner, bank, request, means)
    findings = row.run(case, options, progress)
    return Location(
        locator=row.locator,
        request=request,
        answer=case.answer,
        predicted=runner.tokens.decode([case.predicted]).strip(),
        tokens=case.token_texts,
        charts=findings.charts,
        figures=dict(findings.figures),
        warnings=(*_warnings(case), *findings.warnings),
        provenance=provenance(runner, bank.digest(), began),
    )


def _row(name: str) -> Row:
    row = ROWS.get(name)
    if row is None:
        raise LocatorNotFoundError(
            f"there is no locator {name!r}; there are {', '.join(sorted(ROWS))}", locator=name
        )
    return row


def case_of(runner: Runner, bank: Bank, request: LocateRequest, means: Means) -> Case:
    """What is asked, in tokens; the answer is the model's own next token where none is given.

    Raises:
        InvalidFactError: the answer has no tokens.
        SubjectNotFoundError: the prompt does not name the subject.
        PromptTooLongError: the prompt does not fit the context, or the attention's window.
    """
    tokens, blocks = runner.tokens, blocks_of(runner.checkpoint)
    answer = tuple(tokens.target(request.answer.strip())) if request.answer.strip() else ()
    ids = tokens.fit(request.prompt, room=len(answer))
    blocks.require_sight(len(ids) + len(answer))
    positions = tokens.mentions(request.prompt, request.subject)
    predicted = int(runner.logits(tokens.pad([ids]), bank, last=1)[0, -1].argmax())
    return Case(
        runner=runner,
        blocks=blocks,
        bank=bank,
        prompt=request.prompt,
        subject=request.subject,
        ids=tuple(ids),
        subject_positions=tuple(positions),
        subject_end=len(ids) + tokens.subject_end(request.prompt, request.subject),
        answer=request.answer.strip() or tokens.decode([predicted]).strip(),
        answer_ids=answer or (predicted,),
        predicted=predicted,
        texts=request.texts or means.texts,
        known_facts=means.known_facts,
        seed=request.seed,
        profile=means.profile,
        cache=means.cache,
    )


def _warnings(case: Case) -> tuple[str, ...]:
    if case.answer_ids[0] == case.predicted:
        return ()
    said = case.runner.tokens.decode([case.predicted]).strip()
    return (
        f"the model does not predict {case.answer!r} here but {said!r}; what is located is an "
        "answer it does not give",
    )
