"""What must hold for one branch to be promoted to another.

Invariant: a promotion is a fast-forward: whatever its branch has changed, the source has too.
"""

from typing import Final

from sqlalchemy import Connection

from errata_server.domain.errors import DivergedError, InvalidInputError, StaleRevisionError
from errata_server.domain.revisions import Revision
from errata_server.ledger import applied, lines, references, revisions

SHOWN: Final = 8
"""Edits a message names; the metadata has them all."""


def require_source_head(connection: Connection, revision: Revision) -> None:
    """Do nothing if the source of a promotion is the head of another branch.

    Raises:
        InvalidInputError: it is on the branch that is to move.
        RevisionNotFoundError: it is not there.
        StaleRevisionError: its branch has moved on.
    """
    source = references.by_id(connection, revision.model, revision.source)
    if source.branch == revision.branch:
        raise InvalidInputError("a branch is not promoted to itself", field="source")
    head = revisions.head(connection, revision.model, source.branch)
    if head.id != revision.source:
        raise StaleRevisionError(
            f"branch {source.branch!r} has moved on from revision {revision.source} to "
            f"{head.id} (sequence {head.sequence}); look at it again and retry",
            branch=source.branch,
            expected=revision.source,
            head=head.id,
            sequence=head.sequence,
        )


def require_forward(connection: Connection, revision: Revision) -> None:
    """Do nothing if a promotion loses nothing of what is below it.

    Raises:
        DivergedError: its branch has changes of its own since the source left it.
        RevisionNotFoundError: source or parent is not there.
        LedgerCorruptError: a line of theirs is broken.
    """
    source, target = (
        references.by_id(connection, revision.model, named)
        for named in (revision.source, revision.parent)
    )
    if lines.leads_to(connection, target, source):
        return
    before, after = (applied.fold(connection, one) for one in (target, source))
    beyond = [one.edit for one in after.without(before)]
    named = f" ({' '.join(beyond[:SHOWN])}{' ...' if len(beyond) > SHOWN else ''})"
    raise DivergedError(
        f"branch {target.branch!r} has changed since {source.branch!r} left it, so it cannot be "
        f"moved forward to {source.branch!r}; run `errata branch create NAME --from "
        f"{target.branch}`, apply there what {source.branch!r} has beyond it"
        f"{named if beyond else ''}, and promote that branch",
        branch=target.branch,
        source=source.id,
        target=target.id,
        edits=",".join(beyond),
    )
