"""Facts the base model is known to hold, by relation: the source of neighbours and paraphrases.

Invariants: every relation has at least one template; every fact names a listed relation.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Self

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.facts import PLACEHOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFact:
    """(subject, relation, object), with the templates the model never saw for it."""

    subject: str
    relation: str
    object: str
    held_out: tuple[int, ...] = ()
    """Indices of the relation's templates kept out of training for this fact."""

    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFacts:
    """Relations with their templates, and facts about subjects."""

    templates: dict[str, tuple[str, ...]]
    """Relation to its templates, each with one ``{}``."""

    facts: tuple[KnownFact, ...]
    _by_relation: dict[str, list[KnownFact]] = field(init=False, repr=False, compare=False)
    _by_subject: dict[str, list[KnownFact]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for relation, templates in self.templates.items():
            if not templates or any(t.count(PLACEHOLDER) != 1 for t in templates):
                raise InvalidInputError(
                    f"relation {relation!r} needs templates with exactly one {{}} each",
                    field="relations",
                    relation=relation,
                )
        by_relation: dict[str, list[KnownFact]] = defaultdict(list)
        by_subject: dict[str, list[KnownFact]] = defaultdict(list)
        for fact in self.facts:
            if fact.relation not in self.templates:
                raise InvalidInputError(
                    f"fact about {fact.subject!r} names the unknown relation {fact.relation!r}",
                    field="facts",
                    relation=fact.relation,
                )
            by_relation[fact.relation].append(fact)
            by_subject[fact.subject].append(fact)
        object.__setattr__(self, "_by_relation", dict(by_relation))
        object.__setattr__(self, "_by_subject", dict(by_subject))

    @property
    def subjects(self) -> tuple[str, ...]:
        """Every subject once, in file order."""
        return tuple(self._by_subject)

    def of_relation(self, relation: str) -> list[KnownFact]:
        """Facts with this relation, in file order."""
        return self._by_relation.get(relation, [])

    def of_subject(self, subject: str) -> list[KnownFact]:
        """Facts about this subject, in file order."""
        return self._by_subject.get(subject, [])

    def relation_of(self, template: str) -> str | None:
        """The relation one of whose templates is ``template``."""
        for relation, templates in self.templates.items():
            if template in templates:
                return relation
        return None

    def prompt(self, fact: KnownFact, template: int = 0) -> str:
        """``fact`` asked with one of its relation's templates."""
        return self.templates[fact.relation][template].replace(PLACEHOLDER, fact.subject)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read the file format ``{"relations": {id: {"templates": [...]}}, "facts": [...]}``."""
        try:
            return cls(
                templates={
                    relation: tuple(row["templates"])
                    for relation, row in value["relations"].items()
                },
                facts=tuple(
                    KnownFact(
                        subject=row["subject"],
                        relation=row["relation"],
                        object=row["object"],
                        held_out=tuple(row.get("held_out", ())),
                        source=row.get("source", ""),
                    )
                    for row in value["facts"]
                ),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(
                f"the known-facts file is malformed at {error}; it needs "
                '{"relations": {id: {"templates": [...]}}, '
                '"facts": [{"subject", "relation", "object"}]}',
                field="known_facts",
            ) from error


NO_KNOWN_FACTS = KnownFacts(templates={}, facts=())
