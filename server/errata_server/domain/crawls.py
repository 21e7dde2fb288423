"""Crawls: what a model says around a subject at two revisions (after Cohen et al. 2023).

Invariants: a belief is what most wordings of a question agree on, and nothing where the model
says it does not know or its answers disagree; both revisions are asked the same questions.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from errata_server.domain.answers import begins_with
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.facts import PLACEHOLDER, clean_text
from errata_server.domain.ids import BranchName, Digest, RevisionId

DEPTH: Final = 1
PARAPHRASES: Final = 3
PROMPTS: Final = 400
MOST_DEPTH: Final = 2
MOST_PARAPHRASES: Final = 5
MOST_CRAWLED: Final = 5_000
"""Prompts a crawl may ask at each revision."""

LONGEST_OBJECT: Final = 60
"""Characters of an answer that is taken for an object."""

DONT_KNOW: Final = "Don't know"
"""What the examples before a question say where there is no answer."""

_ABSTENTIONS: Final = ("don't know", "i don't know", "unknown")
_ENDS: Final = ("\n", ". ", ", ", "; ", ".", ",", ";", "#")


class CrawlChange(StrEnum):
    """How what the model says of one relation differs."""

    SAME = "same"
    OTHER = "other"
    GAINED = "gained"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlRequest:
    """What is to be asked about."""

    subject: str
    depth: int = DEPTH
    """1 for the subject itself, 2 for what it is related to as well."""

    paraphrases: int = PARAPHRASES
    """Wordings of each question."""

    max_prompts: int = PROMPTS
    """Asked at each revision; what goes beyond is left out, with a warning."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "subject", clean_text(self.subject, "subject"))
        if PLACEHOLDER in self.subject:
            raise InvalidInputError("the subject must not contain {}", field="subject")
        for name, value, most in (
            ("depth", self.depth, MOST_DEPTH),
            ("paraphrases", self.paraphrases, MOST_PARAPHRASES),
            ("max_prompts", self.max_prompts, MOST_CRAWLED),
        ):
            if not 1 <= value <= most:
                raise InvalidInputError(
                    f"{name} must be from 1 to {most}, not {value}", field=name, value=value
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """What the wordings of one question came to."""

    object: str
    """Empty where the model does not know."""

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
    edit: str
    """The edit by which the revisions differ and that says this itself; empty where none."""

    known: str
    """The object in the known facts; empty where they have none."""

    @property
    def change(self) -> CrawlChange:
        """How the two beliefs differ."""
        before, after = self.before.object, self.after.object
        if before.casefold() == after.casefold():
            return CrawlChange.SAME if before else CrawlChange.UNKNOWN
        if before and after:
            return CrawlChange.OTHER
        return CrawlChange.GAINED if after else CrawlChange.LOST


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawledRevision:
    """Which weights answered."""

    revision: RevisionId
    sequence: int
    branch: BranchName
    weights_digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Crawl:
    """What a crawl found."""

    subject: str
    before: CrawledRevision
    after: CrawledRevision
    known_relations: bool
    """Whether the relations come from the known facts."""

    depth: int
    paraphrases: int
    prompts: int
    relations: tuple[CrawledRelation, ...]
    warnings: tuple[str, ...]
    seconds: float


def belief(answers: Sequence[str], objects: Collection[str]) -> Belief:
    """What most of ``answers`` agree on.

    Args:
        answers: What the model said to the wordings of one question.
        objects: Objects that may be answers; a longer one wins over one it begins with.
    """
    said = tuple(answer.strip()[:LONGEST_OBJECT] for answer in answers)
    found = [read_object(answer, objects) for answer in answers]
    counts = Counter(name.casefold() for name in found)
    winner, votes = counts.most_common(1)[0] if counts else ("", 0)
    if not winner or 2 * votes <= len(found):
        return Belief(object="", votes=0, answers=said)
    spelt = next(name for name in found if name.casefold() == winner)
    return Belief(object=spelt, votes=votes, answers=said)


def read_object(answer: str, objects: Collection[str] = ()) -> str:
    """The object an answer begins with; empty where it gives none."""
    text = answer.strip().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    if text.casefold().startswith(_ABSTENTIONS):
        return ""
    known = [name for name in objects if begins_with(answer, name)]
    if known:
        return max(known, key=len)
    cut = min((text.index(end) for end in _ENDS if end in text), default=len(text))
    return text[:cut].strip(" \"'")[:LONGEST_OBJECT]
