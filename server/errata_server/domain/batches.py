"""Many facts proposed together: what becomes one edit, and what came of each.

Invariants: every item of a batch ends in exactly one edit or one failure; facts of one subject
become one edit, in the order they came; facts that contradict each other all fail, since
nobody here knows which is meant.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from errata_server.domain import canonical
from errata_server.domain.errors import ErrataError, InvalidFactError, InvalidInputError
from errata_server.domain.facts import EditRequest
from errata_server.domain.ids import EditId, ModelId, ProfileId

MAX_ITEMS: Final = 2_000
"""Requests one batch may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """One edit of a batch, and the places in the batch that it is made from."""

    request: EditRequest
    places: tuple[int, ...]

    def edit_id(self, model: ModelId, batch: str, profile: ProfileId) -> EditId:
        """The edit's id: the same whenever this batch is proposed again to ``model``."""
        origin = {"model": model, "batch": batch, "profile": profile}
        content = {**origin, "request": self.request.to_json()}
        return EditId(f"e-{canonical.digest(canonical.encode(content))[:12]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFailure:
    """Why some places of a batch came to nothing."""

    places: tuple[int, ...]
    subject: str
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, subject: str, places: tuple[int, ...], error: ErrataError) -> Self:
        """What ``error`` says of ``places``."""
        return cls(
            places=places,
            subject=subject,
            reason=error.reason,
            message=str(error),
            metadata=dict(error.metadata),
        )

    def to_json(self) -> dict[str, Any]:
        """The failure as JSON-ready values."""
        return {
            "places": list(self.places),
            "subject": self.subject,
            "reason": self.reason,
            "message": self.message,
            "metadata": self.metadata,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NearSubjects:
    """Two edits whose keys lie close, seen before either was computed."""

    first: int
    second: int
    """Their places among the edits asked about."""

    conflict: float
    """The largest whitened cosine between their keys."""

    first_fires: bool
    """Whether the first's guard would fire on the second's subject."""

    second_fires: bool


Asked = EditRequest | InvalidInputError
"""A request of a batch, or why it is none."""


def merge(requests: Sequence[Asked]) -> tuple[list[BatchItem], list[ItemFailure]]:
    """The edits that ``requests`` come to, and what is malformed or contradicts itself.

    Raises:
        InvalidInputError: there is nothing, or too much, in the batch.
    """
    if not 1 <= len(requests) <= MAX_ITEMS:
        raise InvalidInputError(
            f"a batch needs 1 to {MAX_ITEMS} edits, not {len(requests)}",
            field="requests",
            requests=len(requests),
        )
    by_subject: dict[str, dict[int, EditRequest]] = defaultdict(dict)
    failures: list[ItemFailure] = []
    for place, request in enumerate(requests):
        if isinstance(request, InvalidInputError):
            failures.append(ItemFailure.of("", (place,), request))
        else:
            by_subject[request.subject][place] = request
    items: list[BatchItem] = []
    for subject, asked in by_subject.items():
        wrong = _contradicting(asked)
        failures += [ItemFailure.of(subject, (place,), _contradiction(subject)) for place in wrong]
        right = tuple(place for place in asked if place not in wrong)
        if not right:
            continue
        try:
            request = _merged([asked[place] for place in right])
        except InvalidInputError as error:
            failures.append(ItemFailure.of(subject, right, error))
        else:
            items.append(BatchItem(request=request, places=right))
    return items, failures


def _contradicting(asked: Mapping[int, EditRequest]) -> set[int]:
    """Places one of whose prompts is to continue differently at another place."""
    facts = {(fact.template, fact.target) for one in asked.values() for fact in one.facts}
    targets = Counter(template for template, _ in facts)
    return {
        place
        for place, one in asked.items()
        if any(targets[fact.template] > 1 for fact in one.facts)
    }


def _contradiction(subject: str) -> InvalidFactError:
    return InvalidFactError(
        f"the batch gives the same prompt about {subject!r} several targets; keep one of them",
        field="facts",
        subject=subject,
    )


def _merged(requests: Sequence[EditRequest]) -> EditRequest:
    return EditRequest(
        subject=requests[0].subject,
        facts=tuple(dict.fromkeys(fact for one in requests for fact in one.facts)),
        paraphrases=tuple(dict.fromkeys(p for one in requests for p in one.paraphrases)),
        neighbours=tuple(dict.fromkeys(p for one in requests for p in one.neighbours)),
        reason=next((one.reason for one in requests if one.reason), ""),
        ticket=next((one.ticket for one in requests if one.ticket), ""),
        suite=tuple(dict.fromkeys(p for one in requests for p in one.suite)),
        aliases=tuple(dict.fromkeys(a for one in requests for a in one.aliases)),
    )
