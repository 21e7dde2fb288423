"""Trial edits of facts the model knows: how they are made, run and judged.

Invariant: a trial edits the base model alone, by the very code that computes real edits.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from errata_server.domain.facts import CheckPrompt, EditRequest, Fact
from errata_server.domain.known_facts import KnownFact, KnownFacts
from errata_server.domain.measurements import Answer
from errata_server.engine.bank import Bank
from errata_server.engine.measure import ask
from errata_server.engine.recall import Recall
from errata_server.engine.runner import BASE, Runner

NEIGHBOURS: Final = 4
PHRASINGS: Final = 3
"""Phrasings in which a fact must be answered right to count as known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A known fact to be edited to another object of its relation, and how to judge it."""

    request: EditRequest
    efficacy: tuple[CheckPrompt, ...]
    paraphrases: tuple[CheckPrompt, ...]
    neighbours: tuple[CheckPrompt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How far edits held; shares of 1, and 1 where nothing could be asked."""

    efficacy: float
    paraphrase: float
    neighbourhood: float
    """Of the neighbours that were right before."""

    @property
    def score(self) -> float:
        """Harmonic mean of the three, as CounterFact's S."""
        parts = (self.efficacy, self.paraphrase, self.neighbourhood)
        return len(parts) / sum(1 / part for part in parts) if all(parts) else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialAnswers:
    """What the model said to a trial's prompts without and with its edit."""

    efficacy: tuple[Answer, ...]
    paraphrases: tuple[Answer, ...]
    neighbours: tuple[Answer, ...]


def known_among(
    runner: Runner, known_facts: KnownFacts, facts: Sequence[KnownFact]
) -> list[KnownFact]:
    """Those of ``facts`` that the base model answers right in up to `PHRASINGS` phrasings."""
    prompts, owners = [], []
    for fact in facts:
        for template in range(min(PHRASINGS, len(known_facts.templates[fact.relation]))):
            prompts.append(
                CheckPrompt(prompt=known_facts.prompt(fact, template), expected=fact.object)
            )
            owners.append(fact)
    answers = ask(Recall(runner), prompts, BASE, BASE)
    wrong = {id(o) for o, answer in zip(owners, answers, strict=True) if not answer.held_before}
    return [fact for fact in facts if id(fact) not in wrong]


def trial_of(
    known_facts: KnownFacts,
    fact: KnownFact,
    known: Sequence[KnownFact],
    chooser: random.Random,
    *,
    template: int | None = None,
) -> Trial | None:
    """``fact`` edited to another object of its relation; None where there is no other.

    Args:
        known: Facts the model knows, from which neighbours are taken.
        template: The phrasing that is edited; one the model was trained on where None.
    """
    related = known_facts.of_relation(fact.relation)
    objects = sorted({other.object for other in related} - {fact.object})
    if not objects:
        return None
    target = chooser.choice(objects)
    templates = known_facts.templates[fact.relation]
    edited = template
    if edited is None:
        edited = chooser.choice([i for i in range(len(templates)) if i not in fact.held_out])
    others = [f for f in known if f.subject != fact.subject]
    near = [f for f in others if f.relation == fact.relation] or others
    neighbours = chooser.sample(near, min(NEIGHBOURS, len(near)))
    return Trial(
        request=EditRequest(
            subject=fact.subject, facts=(Fact(template=templates[edited], target=target),)
        ),
        efficacy=(CheckPrompt(prompt=known_facts.prompt(fact, edited), expected=target),),
        paraphrases=tuple(
            CheckPrompt(prompt=known_facts.prompt(fact, i), expected=target)
            for i in range(len(templates))
            if i != edited
        ),
        neighbours=tuple(
            CheckPrompt(prompt=known_facts.prompt(other), expected=other.object)
            for other in neighbours
        ),
    )


def ask_trial(runner: Runner, trial: Trial, bank: Bank) -> TrialAnswers:
    """Every prompt of ``trial`` put to the base model and to it with ``bank``."""
    return TrialAnswers(
        efficacy=ask(Recall(runner), trial.efficacy, BASE, bank),
        paraphrases=ask(Recall(runner), trial.paraphrases, BASE, bank),
        neighbours=ask(Recall(runner), trial.neighbours, BASE, bank),
    )


def shares(trials: Sequence[TrialAnswers]) -> Shares:
    """How far the edits of ``trials`` held, their prompts pooled."""
    neighbours = [answer for trial in trials for answer in trial.neighbours if answer.held_before]
    return Shares(
        efficacy=_held([answer for trial in trials for answer in trial.efficacy]),
        paraphrase=_held([answer for trial in trials for answer in trial.paraphrases]),
        neighbourhood=_held(neighbours),
    )


def _held(answers: Sequence[Answer]) -> float:
    return sum(answer.held_after for answer in answers) / len(answers) if answers else 1.0
