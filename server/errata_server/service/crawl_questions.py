"""The questions of a crawl: relations and templates of the known facts, else few-shot prompts.

Invariant: the same request and known facts give the same questions; a question never holds
the answer to itself among its examples.
"""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from errata_server.domain import canonical
from errata_server.domain.crawls import DONT_KNOW
from errata_server.domain.facts import PLACEHOLDER
from errata_server.domain.known_facts import KnownFact, KnownFacts

EXAMPLES: Final = 2
"""Known facts said before a question."""

MOST_RELATIONS: Final = 12
"""Relations taken from what the model says of a subject."""

_SHOTS: Final = (
    ("Portugal", "capital", "Lisbon"),
    ("Dorrit Hallamby", "employer", DONT_KNOW),
    ("Hamlet", "author", "William Shakespeare"),
)
"""One is about nobody, so that not knowing is an answer like others."""

_FORMS: Final = (
    "Q: {subject} # {relation}\nA:",
    "Q: What is the {relation} of {subject}?\nA:",
    "Q: Tell me the {relation} of {subject}.\nA:",
    "Q: {subject}: {relation}?\nA:",
    "Q: Do you know the {relation} of {subject}?\nA:",
)
_RELATION_SHOTS: Final = (
    ("Marie Curie", ("place of birth", "field of work", "spouse", "award received")),
    ("Portugal", ("capital", "official language", "currency", "continent")),
    ("Hamlet", ("author", "genre", "original language", "first performance")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One relation of one subject in several wordings."""

    subject: str
    relation: str
    depth: int
    questions: tuple[str, ...]
    """As a person reads them."""

    prompts: tuple[str, ...]
    """As the model gets them, with their examples."""

    known: str = ""
    """The object in the known facts."""


def known_questions(
    known: KnownFacts, subject: str, depth: int, paraphrases: int
) -> Iterator[Question]:
    """A question for every known relation that fits, those the subject is known by first.

    A relation fits if some other subject is known by it and by one of this subject's: no
    capital is asked of a person. Of a subject that is not known, every relation is asked.
    """
    about = {fact.relation: fact for fact in known.of_subject(subject)}
    fitting = _relations_beside(known, about) if about else set(known.templates)
    ordered = sorted(known.templates, key=lambda relation: relation not in about)  # stable
    for relation in (relation for relation in ordered if relation in fitting):
        templates = known.templates[relation][:paraphrases]
        fact = about.get(relation)
        yield Question(
            subject=subject,
            relation=relation,
            depth=depth,
            questions=tuple(text.replace(PLACEHOLDER, subject) for text in templates),
            prompts=tuple(_after_examples(known, relation, text, subject) for text in templates),
            known=fact.object if fact is not None else "",
        )


def _relations_beside(known: KnownFacts, relations: Collection[str]) -> set[str]:
    """``relations`` and those that a subject known by one of them is known by as well."""
    found = set(relations)
    for subject in known.subjects:
        own = {fact.relation for fact in known.of_subject(subject)}
        if not own.isdisjoint(relations):
            found |= own
    return found


def _after_examples(known: KnownFacts, relation: str, template: str, subject: str) -> str:
    """``template`` about ``subject``, after known facts said the same way."""
    others = [fact for fact in known.of_relation(relation) if fact.subject != subject]
    seed = canonical.digest(f"{relation}\n{template}\n{subject}".encode())
    shown: list[KnownFact] = random.Random(seed).sample(others, min(EXAMPLES, len(others)))
    said = [f"{template.replace(PLACEHOLDER, fact.subject)} {fact.object}." for fact in shown]
    return " ".join([*said, template.replace(PLACEHOLDER, subject)])


def free_question(subject: str, relation: str, depth: int, paraphrases: int) -> Question:
    """A question about a relation in the model's own words, after examples of ours."""
    forms = _FORMS[:paraphrases]
    asked = [form.format(subject=subject, relation=relation) for form in forms]
    examples = [
        "\n\n".join(f"{form.format(subject=s, relation=r)} {o}" for s, r, o in _SHOTS)
        for form in forms
    ]
    return Question(
        subject=subject,
        relation=relation,
        depth=depth,
        questions=tuple(text.removeprefix("Q: ").removesuffix("\nA:") for text in asked),
        prompts=tuple(f"{shots}\n\n{text}" for shots, text in zip(examples, asked, strict=True)),
    )


def relation_prompts(subject: str) -> tuple[str, ...]:
    """Prompts behind which the model lists relations of ``subject``, each with other examples."""
    return tuple(
        "\n\n".join(
            f"Name: {name}\nWhat is known:{words}"
            for name, words in (
                *((n, f" {'; '.join(r)}") for n, r in _RELATION_SHOTS if n != left_out),
                (subject, ""),
            )
        )
        for left_out, _ in _RELATION_SHOTS
    )


def read_relations(answers: Sequence[str]) -> tuple[str, ...]:
    """The relations that answers to `relation_prompts` list, in the order of the first."""
    found: dict[str, None] = {}
    for answer in answers:
        line = answer.strip().split("\n")[0].split(". ")[0]
        for word in line.split(";"):
            relation = " ".join(word.split()).strip(" .,").casefold()
            if 2 < len(relation) <= 40:
                found[relation] = None
    return tuple(found)[:MOST_RELATIONS]
