"""Cases: a fact to edit, what it is edited to, and the prompts that judge the edit.

Invariants: an edit depends on the seed and its own fact alone, so a larger run holds the edits
of a smaller one; no neighbour is itself edited in the same run; paraphrases and neighbours are
in phrasings the model never saw for their facts.
"""

import random
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from errata_server.domain.answers import begins_with
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.facts import PLACEHOLDER, CheckPrompt, EditRequest, Fact
from errata_server.domain.held import held_prompts
from errata_server.domain.known_facts import KnownFact, KnownFacts
from errata_server.engine.answers import ROWS, continue_greedily
from errata_server.engine.runner import BASE, Runner

NEIGHBOURS: Final = 8
INVERSES: Final = {"P36": "P17", "P190": "P190"}
"""Relations whose objects the known facts ask back: a capital's country, a twin city."""

NOUN_PHRASE: Final = re.compile(r"^The (.+ of \{\}) is$")
"""Templates that name their object: ``The capital of {} is`` gives ``the capital of {}``."""

PROMPTS_ABOUT_MORE: Final = 4
"""Prompts at most of one case about the same subject, and as many of two hops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """A question about the edited object by way of the subject, and its answer either way."""

    prompt: str
    expected: str
    """The answer once the edit holds."""

    expected_before: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A fact, what it is edited to, and the prompts that judge it."""

    request: EditRequest
    true: str
    """The object before the edit."""

    efficacy: CheckPrompt
    paraphrases: tuple[CheckPrompt, ...]
    neighbours: tuple[CheckPrompt, ...]
    same_subject: tuple[CheckPrompt, ...] = ()
    reverse: tuple[CheckPrompt, ...] = ()
    two_hop: tuple[Hop, ...] = ()
    held: tuple[str, ...] = ()
    """Held prompts, as a server with these known facts would have them."""

    @property
    def target(self) -> str:
        """What the fact is edited to."""
        return self.request.facts[0].target

    @property
    def sentence(self) -> str:
        """The edit as a sentence."""
        return f"{self.efficacy.prompt} {self.target}."

    @property
    def prefixed_neighbours(self) -> tuple[CheckPrompt, ...]:
        """CounterFact+: the neighbours with the edit's sentence before them."""
        return tuple(
            CheckPrompt(prompt=f"{self.sentence} {neighbour.prompt}", expected=neighbour.expected)
            for neighbour in self.neighbours
        )


def choose_cases(runner: Runner, known: KnownFacts, count: int, seed: int) -> list[Case]:
    """Cases over random facts about the real world that the model knows, all subjects apart.

    No prompt that must not change is about a subject that is edited here.

    Raises:
        InvalidInputError: the model knows none of the facts.
    """
    facts = [fact for fact in known.facts if fact.source != "invented"]
    random.Random(seed).shuffle(facts)
    chosen: dict[str, Change] = {}
    for change in _known(runner, known, _changes(known, facts, seed)):
        if len(chosen) == count:
            break
        chosen.setdefault(change.fact.subject, change)
    if not chosen:
        raise InvalidInputError(
            "the model answers none of the known facts, so there is nothing to edit; give a "
            "file of facts with --facts",
            field="facts",
        )
    rest = known_without(known, set(chosen))
    return [
        case_of(known, change, rest, random.Random(f"{seed}|{subject}"))
        for subject, change in chosen.items()
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A known fact, the phrasing that is edited, and the new object."""

    fact: KnownFact
    template: int
    target: str


def known_without(known: KnownFacts, subjects: Collection[str]) -> KnownFacts:
    """``known`` but for the facts about ``subjects``."""
    kept = tuple(fact for fact in known.facts if fact.subject not in subjects)
    return KnownFacts(templates=known.templates, facts=kept)


def _changes(known: KnownFacts, facts: Sequence[KnownFact], seed: int) -> Iterator[Change]:
    """Each of ``facts`` to another object of its relation, where there is another."""
    for fact in facts:
        chooser = random.Random(f"{seed}|{fact.relation}|{fact.subject}")
        related = known.of_relation(fact.relation)
        objects = sorted({other.object for other in related} - {fact.object})
        templates = range(len(known.templates[fact.relation]))
        if objects:
            target = chooser.choice(objects)
            template = chooser.choice([i for i in templates if i not in fact.held_out])
            yield Change(fact=fact, template=template, target=target)


def _known(runner: Runner, known: KnownFacts, changes: Iterator[Change]) -> Iterator[Change]:
    """Those of ``changes`` whose fact the base model gives on the prompt to be edited."""
    while batch := [change for change, _ in zip(changes, range(ROWS), strict=False)]:
        prompts = [known.prompt(change.fact, change.template) for change in batch]
        room = 2 + max(len(runner.tokens.target(change.fact.object)) for change in batch)
        said = continue_greedily(runner, prompts, BASE, new_tokens=room)
        for change, answer in zip(batch, said, strict=True):
            if begins_with(answer, change.fact.object):
                yield change


def case_of(known: KnownFacts, change: Change, rest: KnownFacts, chooser: random.Random) -> Case:
    """``change`` with the prompts that judge it.

    Args:
        rest: The known facts about subjects that nothing edits.
    """
    fact, target = change.fact, change.target
    template = known.templates[fact.relation][change.template]
    request = EditRequest(subject=fact.subject, facts=(Fact(template=template, target=target),))
    return Case(
        request=request,
        true=fact.object,
        efficacy=CheckPrompt(prompt=known.prompt(fact, change.template), expected=target),
        paraphrases=tuple(
            CheckPrompt(prompt=known.prompt(fact, index), expected=target)
            for index in fact.held_out
        ),
        neighbours=tuple(
            CheckPrompt(prompt=_unseen(known, other), expected=other.object)
            for other in _neighbours(rest, fact, chooser)
        ),
        same_subject=tuple(
            CheckPrompt(prompt=_unseen(known, other), expected=other.object)
            for other in known.of_subject(fact.subject)
            if other.relation != fact.relation
        )[:PROMPTS_ABOUT_MORE],
        reverse=_reverse(known, fact, target),
        two_hop=tuple(_two_hop(known, rest, fact, target))[:PROMPTS_ABOUT_MORE],
        held=held_prompts(known, request),
    )


def _unseen(known: KnownFacts, fact: KnownFact) -> str:
    """``fact`` asked in the first phrasing it was not trained on."""
    return known.prompt(fact, fact.held_out[0] if fact.held_out else 0)


def _neighbours(rest: KnownFacts, fact: KnownFact, chooser: random.Random) -> list[KnownFact]:
    """Other subjects of the relation, those that share the old object first."""
    others = [
        other
        for other in rest.of_relation(fact.relation)
        if other.subject != fact.subject and other.source != "invented"
    ]
    chooser.shuffle(others)
    others.sort(key=lambda other: other.object != fact.object)
    return others[:NEIGHBOURS]


def _reverse(known: KnownFacts, fact: KnownFact, target: str) -> tuple[CheckPrompt, ...]:
    """The new object asked for its subject, where the known facts have the inverse relation."""
    inverse = INVERSES.get(fact.relation)
    if inverse not in known.templates or target == fact.subject:
        return ()
    prompt = known.templates[inverse][0].replace(PLACEHOLDER, target)
    return (CheckPrompt(prompt=prompt, expected=fact.subject),)


def _two_hop(known: KnownFacts, rest: KnownFacts, fact: KnownFact, target: str) -> Iterator[Hop]:
    """Facts about the new object, asked with the subject's description in its place."""
    phrases = [m[1] for t in known.templates[fact.relation] if (m := NOUN_PHRASE.match(t))]
    if not phrases:
        return
    description = f"the {phrases[0].replace(PLACEHOLDER, fact.subject)}"
    before = {other.relation: other.object for other in known.of_subject(fact.object)}
    for other in rest.of_subject(target):
        was = before.get(other.relation)
        if was is None or was == other.object:
            continue
        prompt = known.templates[other.relation][0].replace(PLACEHOLDER, description)
        yield Hop(prompt=prompt[0].upper() + prompt[1:], expected=other.object, expected_before=was)
