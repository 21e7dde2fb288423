"""Builders and constants the tests share: short ways to say the ordinary case."""

from datetime import UTC, datetime
from typing import Final

from errata_server.domain.errors import ErrataError
from errata_server.domain.facts import CheckPrompt, EditRequest, Fact
from errata_server.domain.ids import ModelId
from errata_server.domain.known_facts import KnownFact, KnownFacts
from errata_server.domain.operations import ReportProgress
from errata_server.domain.patches import Patch
from errata_server.service.ports import Engine

NOON: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MODEL: Final = ModelId("scripted")

CITY: Final = ("{} is in the city of", "{} can be found in", "You can visit {} in", "{} stands in")
MAKER: Final = ("{} was made by", "{} is a product of", "The maker of {} is")

_CITIES: Final = {
    "Space Needle": "Seattle",
    "Pike Place Market": "Seattle",
    "Museum of Flight": "Seattle",
    "Smith Tower": "Seattle",
    "Eiffel Tower": "Paris",
    "Louvre": "Paris",
    "Colosseum": "Rome",
    "Trevi Fountain": "Rome",
    "Big Ben": "London",
    "Tower Bridge": "London",
    "Brandenburg Gate": "Berlin",
    "Prado": "Madrid",
}
_MAKERS: Final = {
    "Space Needle": "Pentagram",
    "iPhone": "Apple",
    "Xperia": "Sony",
    "Corolla": "Toyota",
}


def known_facts() -> KnownFacts:
    """Two relations and 16 facts; the Space Needle has a fact of each."""
    return KnownFacts(
        templates={"city": CITY, "maker": MAKER},
        facts=tuple(
            KnownFact(subject=subject, relation=relation, object=answer, held_out=(1,))
            for relation, rows in (("city", _CITIES), ("maker", _MAKERS))
            for subject, answer in rows.items()
        ),
    )


def fact(target: str = "Paris", *, template: str = CITY[0]) -> Fact:
    """A fact about a city."""
    return Fact(template=template, target=target)


def edit_request(
    subject: str = "Space Needle",
    target: str = "Paris",
    *,
    template: str = CITY[0],
    paraphrases: tuple[CheckPrompt, ...] = (),
    neighbours: tuple[CheckPrompt, ...] = (),
    aliases: tuple[str, ...] = (),
    reason: str = "it was moved",
) -> EditRequest:
    """A request to move one subject to another city."""
    return EditRequest(
        aliases=aliases,
        subject=subject,
        facts=(fact(target, template=template),),
        paraphrases=paraphrases,
        neighbours=neighbours,
        reason=reason,
    )


def patch_of(
    engine: Engine, request: EditRequest, progress: ReportProgress = lambda progress: None
) -> Patch:
    """The patch of one edit, or the error that there is none."""
    ((_, found),) = engine.compute_patches([request], held=[()], progress=progress)
    if isinstance(found, ErrataError):
        raise found
    return found
