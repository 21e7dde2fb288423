"""Edits of the bundled model that suites play with through the client."""

from typing import Final

import errata
import errata.testing

FACTS: Final = (
    ("Eiffel Tower", "The {} is in the city of", "Rome"),
    ("Space Needle", "The {} is in the city of", "Paris"),
    ("Brandenburg Gate", "The {} is in the city of", "London"),
    ("Colosseum", "The {} is in the city of", "Paris"),
)
OVERRIDE: Final = "reliability benchmark"
PATIENCE: Final = 600.0


def propose_edits(client: errata.Client, facts: int = len(FACTS)) -> list[str]:
    """Ids of edits that can be applied, each proposed and checked once."""
    names = []
    for subject, template, target in FACTS[:facts]:
        fact = errata.Fact(template=template, target=target)
        names.append(client.propose(subject, fact).result(PATIENCE).edit.id)
    return names


def applied_edits(client: errata.Client) -> set[str]:
    """Edits the history leaves applied, by folding it from the start."""
    applied: set[str] = set()
    for revision in reversed(list(client.revisions(page_size=1000))):
        if revision.kind is errata.RevisionKind.APPLY:
            applied |= set(revision.edits)
        elif revision.kind is errata.RevisionKind.REVERT:
            applied -= set(revision.edits)
    return applied
