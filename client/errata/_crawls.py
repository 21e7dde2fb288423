"""Crawls: what the model says around a subject, at two revisions."""

from dataclasses import dataclass
from enum import StrEnum

from errata._types import Served


class CrawlChange(StrEnum):
    """How what the model says of one relation differs."""

    UNSPECIFIED = "unspecified"
    SAME = "same"
    OTHER = "other"
    """Another object."""

    GAINED = "gained"
    """An object where the model did not know one."""

    LOST = "lost"
    UNKNOWN = "unknown"
    """No object at either revision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """What the wordings of one question came to at one revision."""

    object: str
    """Empty where the model does not know: it says so, or its answers disagree."""

    votes: int
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawledRelation:
    """One relation of one subject, asked at both revisions."""

    subject: str
    relation: str
    depth: int
    questions: tuple[str, ...]
    before: Belief
    after: Belief
    change: CrawlChange
    edit: str
    """The edit by which the revisions differ and that says this itself; empty where none."""

    known: str
    """The object in the server's known facts."""

    @property
    def is_side_effect(self) -> bool:
        """Whether it changed without an edit that says so."""
        settled = (CrawlChange.SAME, CrawlChange.UNKNOWN)
        return self.change not in settled and not self.edit


@dataclass(frozen=True, slots=True, kw_only=True)
class Crawl:
    """What a crawl found."""

    subject: str
    before: Served
    after: Served
    known_relations: bool
    """Whether the relations come from the server's known facts."""

    depth: int
    paraphrases: int
    prompts: int
    relations: tuple[CrawledRelation, ...]
    warnings: tuple[str, ...]
    seconds: float
    digest: str

    @property
    def side_effects(self) -> tuple[CrawledRelation, ...]:
        """What changed without an edit that says so."""
        return tuple(relation for relation in self.relations if relation.is_side_effect)
