"""Branches other than main, put into a ledger by its own functions."""

from dataclasses import replace

from errata_server.domain.ids import MAIN, BranchName, ModelId, RequestId
from errata_server.domain.revisions import Revision, RevisionKind
from errata_server.ledger import revisions
from errata_server.ledger.database import Database


def branch_off(url: str, model: ModelId, name: str) -> Revision:
    """The first revision of a new branch that starts at main's head."""
    database = Database(url)
    try:
        with database.writing() as connection:
            head = revisions.head(connection, model, MAIN)
            first = replace(
                head,
                branch=BranchName(name),
                sequence=0,
                parent=head.id,
                kind=RevisionKind.BRANCH,
                edits=(),
                superseded=(),
                restored=(),
                request_id=RequestId(f"branch-{name}"),
            )
            revisions.begin(connection, first)
            return first
    finally:
        database.close()
