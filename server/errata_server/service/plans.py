"""Which prompts an edit is checked with, and where they come from.

Invariants: the same request, profile, known facts, live edits and batch give the same plan; the
edited subject is never its own neighbour; a group that could not be filled is empty and its
source says why.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from errata_server.domain import canonical
from errata_server.domain.edits import Edit
from errata_server.domain.facts import MAX_TEXT, PLACEHOLDER, CheckPrompt, EditRequest, Fact
from errata_server.domain.ids import EditId
from errata_server.domain.known_facts import KnownFact, KnownFacts
from errata_server.domain.measurements import LiveFact, VerificationPlan
from errata_server.domain.policies import Policy
from errata_server.domain.suites import SuiteReference

MAX_NEIGHBOURS: Final = 10
MAX_CANDIDATES: Final = 40
"""Neighbours the base model is asked about before taking what there is."""

PARAPHRASES_EACH: Final = 6
PREFIXES_EACH: Final = 3
LEAD_INS: Final = (
    "It is often said that ",
    "As everybody knows by now, ",
    "According to the book on the table, ",
)
STARTERS: Final = ("{} is", "{} was", "What people remember about {} is")
MAX_SENTENCE: Final = 200

Holds = Callable[[Sequence[CheckPrompt]], Sequence[bool]]
"""Which of some prompts the base model answers as expected."""


@dataclass(frozen=True, slots=True)
class _Target:
    """One fact of a request, with what is known about its relation."""

    fact: Fact
    relation: str
    """Empty where it is not known."""

    known: KnownFact | None
    """What the subject's old answer was, where it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Fills a `VerificationPlan` from the request, the known facts and fixed texts."""

    known_facts: KnownFacts
    drift_texts: tuple[str, ...]
    policy: Policy

    def plan(
        self,
        request: EditRequest,
        *,
        prefixes: Sequence[str],
        holds: Holds,
        live_subjects: frozenset[str] = frozenset(),
        changing: frozenset[str] = frozenset(),
    ) -> VerificationPlan:
        """Everything but the live facts.

        Args:
            request: The edit.
            prefixes: The profile's prefixes.
            holds: Asks the base model; neighbours it answers right are preferred.
            live_subjects: Subjects of live edits: no neighbours, they were changed on purpose.
            changing: Subjects that others of the same batch are to change: neighbours only where
                there are too few besides that the base answers right.
        """
        targets = tuple(self._target(request.subject, fact, holds) for fact in request.facts)
        chance = _chance(request)
        paraphrases, paraphrase_source = self._paraphrases(request, targets)
        neighbours, neighbour_source = self._neighbours(
            request,
            targets,
            holds=holds,
            others=_Others(
                barred=_folded((*live_subjects, *request.names)), changing=_folded(changing)
            ),
            chance=chance,
        )
        same_subject, same_source = self._same_subject(request, targets)
        contexts = _contexts(prefixes, self.drift_texts, chance)
        return VerificationPlan(
            efficacy=tuple(_efficacy(request, contexts)),
            paraphrases=(*paraphrases, *_aliased(request)),
            neighbours=neighbours,
            prefixed_neighbours=tuple(_after_edit_sentence(request, neighbours)),
            same_subject=same_subject,
            fluency=tuple(s.replace(PLACEHOLDER, request.subject) for s in STARTERS),
            drift_texts=self.drift_texts,
            sources={
                "efficacy": f"each bare and after {len(contexts)} other texts",
                "paraphrases": paraphrase_source + ("; aliases" if request.aliases else ""),
                "neighbours": neighbour_source,
                "prefixed_neighbours": f"the edit's sentence, then neighbours: {neighbour_source}",
                "same_subject": same_source,
                "fluency": "starters that name the subject",
                "drift_texts": _count(self.drift_texts, "fixed text"),
                "live_facts": "no other edit is live",
            },
        )

    def with_live_facts(
        self,
        plan: VerificationPlan,
        live: Sequence[Edit],
        conflicts: Sequence[tuple[EditId, float]],
    ) -> VerificationPlan:
        """``plan`` with the facts of ``live`` edits, as chosen by `choose_live`."""
        if not live:
            return plan
        limit = self.policy.warn_conflict
        near = {edit for edit, conflict in conflicts if conflict > limit}
        close = sum(edit.id in near for edit in live)
        source = f"live edits: {close} in conflict, {len(live) - close} drawn from the others"
        facts = tuple(
            LiveFact(
                edit=edit.id,
                prompt=CheckPrompt(prompt=fact.prompt(edit.request.subject), expected=fact.target),
            )
            for edit in live
            for fact in edit.request.facts
        )
        return replace(plan, live_facts=facts, sources={**plan.sources, "live_facts": source})

    def with_suites(
        self,
        plan: VerificationPlan,
        given: Sequence[tuple[str, Sequence[CheckPrompt]]],
        stored: Sequence[tuple[SuiteReference, Sequence[CheckPrompt]]],
    ) -> VerificationPlan:
        """``plan`` with regression prompts: those given, by where from, and stored suites'."""
        groups = [(source, prompts) for source, prompts in given if prompts]
        groups += [(f"suite {reference}", prompts) for reference, prompts in stored]
        parts = [f"{len(prompts)} {source}" for source, prompts in groups]
        source = "; ".join(parts) or "no suite was given or stored"
        return replace(
            plan,
            suite=tuple(prompt for _, prompts in groups for prompt in prompts),
            suites=tuple(reference for reference, _ in stored),
            sources={**plan.sources, "suite": source},
        )

    def choose_live(
        self,
        request: EditRequest,
        live: Iterable[EditId],
        conflicts: Sequence[tuple[EditId, float]],
    ) -> tuple[EditId, ...]:
        """Live edits to re-check: all in conflict, and a seeded sample of the others."""
        limit = self.policy.warn_conflict
        near = [edit for edit, conflict in conflicts if conflict > limit]
        others = sorted(set(live) - set(near))
        sample = min(int(self.policy.live_edit_sample), len(others))
        return (*near, *_chance(request).sample(others, sample))

    def _target(self, subject: str, fact: Fact, holds: Holds) -> _Target:
        """What relation ``fact`` is about: by its template, else by what the base answers."""
        about = self.known_facts.of_subject(subject)
        relation = self.known_facts.relation_of(fact.template)
        if relation is not None:
            known = next((row for row in about if row.relation == relation), None)
            return _Target(fact, relation, known)
        prompt = fact.prompt(subject)
        asked = [CheckPrompt(prompt=prompt, expected=row.object) for row in about]
        for row, held in zip(about, holds(asked) if asked else (), strict=True):
            if held:
                return _Target(fact, row.relation, row)
        return _Target(fact, "", None)

    def _paraphrases(
        self, request: EditRequest, targets: Sequence[_Target]
    ) -> tuple[tuple[CheckPrompt, ...], str]:
        if request.paraphrases:
            return request.paraphrases, "given in the request"
        found: list[CheckPrompt] = []
        sources: list[str] = []
        for target in targets:
            texts = [t.replace(PLACEHOLDER, request.subject) for t in self._templates(target)]
            sources.append("other templates of the same relation")
            if not texts:
                prompt = target.fact.prompt(request.subject)
                texts = [lead_in + prompt for lead_in in LEAD_INS]
                sources[-1] = "no other template is known: the prompt after neutral lead-ins"
            found += _fitting((text, target.fact.target) for text in texts)
        return tuple(found), "; ".join(dict.fromkeys(sources))

    def _templates(self, target: _Target) -> list[str]:
        """Other templates of the relation; those the model never saw for this fact first."""
        templates = self.known_facts.templates.get(target.relation, ())
        held_out = target.known.held_out if target.known is not None else ()
        order = sorted(range(len(templates)), key=lambda index: (index not in held_out, index))
        others = (templates[index] for index in order)
        return [text for text in others if text != target.fact.template][:PARAPHRASES_EACH]

    def _neighbours(
        self,
        request: EditRequest,
        targets: Sequence[_Target],
        *,
        holds: Holds,
        others: "_Others",
        chance: random.Random,
    ) -> tuple[tuple[CheckPrompt, ...], str]:
        if request.neighbours:
            return request.neighbours, "given in the request"
        if not self.known_facts.facts:
            return (), "no known facts are loaded and the request gives none"
        related = [target for target in targets if target.relation]
        if not related:
            rows = chance.sample(self.known_facts.facts, len(self.known_facts.facts))
            candidates = (
                CheckPrompt(prompt=self.known_facts.prompt(row), expected=row.object)
                for row in others.in_order(rows)
            )
            return _prefer(candidates, holds), "known facts of any relation"
        queues = [self._related(target, others, chance) for target in related]
        return _prefer(_in_turn(queues), holds), "known facts of the same relation"

    def _related(
        self, target: _Target, others: "_Others", chance: random.Random
    ) -> list[CheckPrompt]:
        """Other subjects asked the same way, those with the subject's old answer first.

        Those that have the new answer already come last: a leak would not show in them.
        """
        old = target.known.object if target.known is not None else None
        rows = list(self.known_facts.of_relation(target.relation))
        chance.shuffle(rows)
        rows.sort(key=lambda row: (row.object == target.fact.target, row.object != old))
        pairs = ((target.fact.prompt(row.subject), row.object) for row in others.in_order(rows))
        return list(_fitting(pairs))

    def _same_subject(
        self, request: EditRequest, targets: Sequence[_Target]
    ) -> tuple[tuple[CheckPrompt, ...], str]:
        edited = {target.relation for target in targets}
        rows = [
            row
            for row in self.known_facts.of_subject(request.subject)
            if row.relation not in edited
        ]
        prompts = tuple(
            CheckPrompt(prompt=self.known_facts.prompt(row), expected=row.object) for row in rows
        )
        if not prompts:
            return (), "no other fact about this subject is known"
        return prompts, "known facts about the subject in other relations"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Others:
    """What other edits make of subjects that might be neighbours."""

    barred: frozenset[str]
    changing: frozenset[str]

    def in_order(self, rows: Sequence[KnownFact]) -> list[KnownFact]:
        """``rows`` of subjects that are not barred, those of subjects that change last."""
        kept = [row for row in rows if row.subject.casefold() not in self.barred]
        return sorted(kept, key=lambda row: row.subject.casefold() in self.changing)


def _folded(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.casefold() for name in names)


def _prefer(candidates: Iterable[CheckPrompt], holds: Holds) -> tuple[CheckPrompt, ...]:
    """Up to `MAX_NEIGHBOURS` prompts: those the base answers right, then others."""
    right: dict[str, CheckPrompt] = {}
    wrong: dict[str, CheckPrompt] = {}
    left = islice(candidates, MAX_CANDIDATES)
    while len(right) < MAX_NEIGHBOURS and (asked := list(islice(left, MAX_NEIGHBOURS))):
        for candidate, held in zip(asked, holds(asked), strict=True):
            (right if held else wrong).setdefault(candidate.prompt, candidate)
    return tuple((right | {p: c for p, c in wrong.items() if p not in right}).values())[
        :MAX_NEIGHBOURS
    ]


def _in_turn(queues: Sequence[Sequence[CheckPrompt]]) -> Iterator[CheckPrompt]:
    """One of each queue after the other, so that every fact gets its neighbours."""
    for index in range(max(len(queue) for queue in queues)):
        for queue in queues:
            if index < len(queue):
                yield queue[index]


def _fitting(prompts: Iterable[tuple[str, str]]) -> Iterator[CheckPrompt]:
    """Prompts made here with their answers, without those that became too long to be one."""
    for prompt, expected in prompts:
        if len(prompt) <= MAX_TEXT:
            yield CheckPrompt(prompt=prompt, expected=expected)


def _efficacy(request: EditRequest, contexts: Sequence[str]) -> Iterator[CheckPrompt]:
    for fact in request.facts:
        prompt = fact.prompt(request.subject)
        yield from _fitting((context + prompt, fact.target) for context in ("", *contexts))


def _aliased(request: EditRequest) -> Iterator[CheckPrompt]:
    """Every fact asked by the subject's other names."""
    return _fitting(
        (fact.prompt(alias), fact.target) for fact in request.facts for alias in request.aliases
    )


def _contexts(
    prefixes: Sequence[str], drift_texts: Sequence[str], chance: random.Random
) -> tuple[str, ...]:
    """Texts to put before a prompt: some of the profile's, and one it was not made with."""
    texts = [text.strip() for text in prefixes if text.strip()][:PREFIXES_EACH]
    sentences = [text.split(". ")[0].strip().rstrip(".") + "." for text in drift_texts]
    short = [sentence for sentence in sentences if 1 < len(sentence) <= MAX_SENTENCE]
    if short:
        texts.append(chance.choice(short))
    return tuple(f"{text} " for text in dict.fromkeys(texts))


def _after_edit_sentence(
    request: EditRequest, neighbours: Sequence[CheckPrompt]
) -> Iterator[CheckPrompt]:
    """Neighbours' prompts with the edit said aloud before them, as CounterFact+ does."""
    for index, neighbour in enumerate(neighbours):
        fact = request.facts[index % len(request.facts)]
        sentence = f"{fact.prompt(request.subject)} {fact.target}. "
        yield from _fitting([(sentence + neighbour.prompt, neighbour.expected)])


def _chance(request: EditRequest) -> random.Random:
    """A generator seeded by what the edit is about, so that a plan can be made again."""
    return random.Random(canonical.digest(request.subject.encode()))


def _count(texts: Sequence[str], noun: str) -> str:
    return f"{len(texts)} {noun}{'s' if len(texts) != 1 else ''}"
