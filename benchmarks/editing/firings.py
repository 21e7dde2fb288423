"""Where guards fire: on their own subject, on another's, and in ordinary prose.

A guarded model that no guard fires in is the base model, so every change of an answer has
its firing, and every miss a cause: the guard was deaf, another edit was nearer, or the value
does not make the model say the target.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from benchmarks.editing.cases import Case
from benchmarks.editing.judging import Group, Tally
from benchmarks.editing.methods import Condition
from benchmarks.editing.workbench import Workbench, prose_of
from errata_server.engine.answers import in_batches, perplexity
from errata_server.engine.bank import GuardedBranch
from errata_server.engine.runner import BASE

SEVERAL: Final = 20
"""Worst offenders that are named."""


class Cause(StrEnum):
    """Why an edited model does not answer as it should."""

    DEAF = "deaf"
    """No edit fires: the subject is not recognised."""

    USURPED = "usurped"
    """Another subject's edit fires as well or instead."""

    VALUE = "value"
    """The right edit fires alone, and the model says something else all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """A guard that fired at one token."""

    text: int
    token: int
    """Its place in the text."""

    subject: str
    """Whose edit it is."""

    match: float


@dataclass(frozen=True, slots=True)
class Guards:
    """The guards of live edits, and whose they are."""

    bench: Workbench
    branch: GuardedBranch
    subjects: Sequence[str]
    """Of each edit, in the branch's order."""

    def firings(self, texts: Sequence[str]) -> Iterator[Firing]:
        """Every firing in ``texts``, cut to the context."""
        runner = self.bench.runner
        rows = [runner.tokens.encode(text)[: runner.tokens.context] for text in texts]
        for some in in_batches(list(enumerate(rows)), lambda numbered: len(numbered[1])):
            batch = runner.tokens.pad([row for _, row in some])
            (inputs,) = runner.inputs(batch, [self.branch.module])
            nearest = self.branch.nearest(inputs)
            fires = nearest.fires & batch.mask.bool()
            padding = (1 - batch.mask).sum(dim=1).tolist()
            for row, column in fires.nonzero().tolist():
                key = int(nearest.keys[row, column])
                yield Firing(
                    text=some[row][0],
                    token=column - padding[row],
                    subject=self.subjects[int(self.branch.owners[key])],
                    match=float(nearest.matches[row, column]),
                )


def guards_of(bench: Workbench, cases: Sequence[Case], condition: Condition) -> Guards:
    """The guards of ``condition``, which has the edits of ``cases`` in their order."""
    (branch,) = condition.bank.branches
    assert isinstance(branch, GuardedBranch)  # noqa: S101 - only errata has guards
    return Guards(bench, branch, [case.request.subject for case in cases])


def selectivity(
    guards: Guards, condition: Condition
) -> tuple[dict[str, float], list[tuple[str, int]]]:
    """Firings per million tokens of ordinary prose, and the edits that fire most.

    A text that names the edit's subject is no false alarm: it is counted apart, and so is the
    perplexity of the fixed prose that names no edited subject at all.
    """
    runner, texts = guards.bench.runner, prose_of(guards.bench)
    tokens = sum(min(len(runner.tokens.encode(t)), runner.tokens.context) for t in texts)
    false: Counter[str] = Counter()
    rightly = 0
    for firing in guards.firings(texts):
        if _names(texts[firing.text], firing.subject):
            rightly += 1
        else:
            false[firing.subject] += 1
    figures = {
        "false_firings_per_million": 1e6 * sum(false.values()) / tokens,
        "named_firings_per_million": 1e6 * rightly / tokens,
    }
    drift = guards.bench.texts.drift
    unnamed = [text for text in drift if not any(_names(text, s) for s in guards.subjects)]
    if unnamed:
        edited, plain = (perplexity(runner, unnamed, bank) for bank in (condition.bank, BASE))
        figures |= {"unnamed_texts": len(unnamed), "unnamed_perplexity_ratio": edited / plain}
    return figures, false.most_common(SEVERAL)


def _names(text: str, subject: str) -> bool:
    return subject.lower() in text.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why prompts were missed, and whose edits changed neighbours."""

    causes: Mapping[str, Cause]
    """Of every missed prompt."""

    fired: Mapping[str, Sequence[str]]
    """Whose edits fired in every missed prompt and lost neighbour."""

    lost: Sequence[str]
    """Neighbours that no longer have their right answer."""

    def to_json(self) -> dict[str, object]:
        """For a document's details."""
        return {
            "causes": Counter(cause.value for cause in self.causes.values()),
            "missed": [
                {"prompt": prompt, "cause": cause.value, "fired": list(self.fired[prompt])}
                for prompt, cause in self.causes.items()
            ],
            "neighbours_lost": [
                {"prompt": prompt, "fired": list(self.fired[prompt])} for prompt in self.lost
            ],
        }


def explain(guards: Guards, cases: Sequence[Case], tally: Tally) -> Explanation:
    """The cause of every miss, and which edits changed neighbours' answers."""
    wanted = {
        prompt.prompt: case.request.subject
        for case in cases
        for prompt in (case.efficacy, *case.paraphrases)
    }
    missed = [
        answer.prompt
        for group in (Group.EFFICACY, Group.PARAPHRASES)
        for answer in tally.answers[group]
        if not answer.held_after
    ]
    neighbours = tally.answers[Group.NEIGHBOURS]
    lost = [a.prompt for a in neighbours if a.held_before and not a.held_after]
    texts = list(dict.fromkeys([*missed, *lost]))
    fired: dict[str, list[str]] = {text: [] for text in texts}
    for firing in guards.firings(texts):
        fired[texts[firing.text]].append(firing.subject)
    causes = {prompt: cause(wanted[prompt], fired[prompt]) for prompt in missed}
    return Explanation(causes=causes, fired=fired, lost=lost)


def cause(subject: str, fired: Sequence[str]) -> Cause:
    """Why a prompt about ``subject`` was missed, given whose edits fired in it."""
    if not fired:
        return Cause.DEAF
    return Cause.VALUE if set(fired) == {subject} else Cause.USURPED
