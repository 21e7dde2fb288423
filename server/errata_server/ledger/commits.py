"""Committing a revision of any kind: what is locked, what must hold, what is inserted.

Invariants: everything a revision claims of other rows is checked under locks that are held
until it is committed; the model is locked before branches, and these in the order of their
names, so that no two commits wait for each other; a repeated request gets what it made before
anything is checked.
"""

from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from errata_server.domain.errors import (
    BranchExistsError,
    InvalidInputError,
    StaleRevisionError,
)
from errata_server.domain.revisions import NO_SOURCE, Revision, RevisionKind
from errata_server.ledger import models, promotions, protection, references, revisions, tables


def commit(connection: Connection, revision: Revision) -> Revision:
    """Append ``revision``, or return what its request made earlier.

    Raises:
        StaleRevisionError: ``revision.parent`` is not its branch's head, or ``revision.source``
            not that of another branch.
        BranchExistsError: it would be the first of a branch there is.
        DivergedError: it is a promotion, and its branch has changes of its own.
        ApprovalRequiredError: its branch is protected, and an edit lacks an approval.
        VerificationFailedError: its branch is protected, and an edit failed its checks.
        RequestIdReusedError: the request id made another revision before.
        ModelMismatchError: it belongs to another checkpoint than the history.
        NotFoundError: it names a row that is not there.
        InvalidInputError: its kind, sequence and links do not go together.
    """
    lock(connection, revision)
    earlier = revisions.repeated(connection, revision)
    if earlier is not None:
        return earlier
    if (revision.source == NO_SOURCE) is (revision.kind is RevisionKind.PROMOTE):
        raise InvalidInputError("a promotion, and nothing else, has a source", field="source")
    if revision.kind is RevisionKind.BRANCH:
        return _start(connection, revision)
    if revision.kind is RevisionKind.PROMOTE:
        promotions.require_source_head(connection, revision)
    if revision.parent == revisions.lock_head(connection, revision.model, revision.branch).head:
        protection.require_kept(connection, revision)
    require_allowed(connection, revision)
    return revisions.append(connection, revision)


def require_allowed(connection: Connection, revision: Revision) -> None:
    """Do nothing if the history and the policy of its branch let ``revision`` in.

    Raises:
        BranchExistsError: it would be the first of a branch there is.
        DivergedError: it is a promotion, and its branch has changes of its own.
        ApprovalRequiredError: its branch is protected, and an edit lacks an approval.
        VerificationFailedError: its branch is protected, and an edit failed its checks.
        StaleRevisionError: an edit was verified again since it was made.
    """
    if revision.kind is RevisionKind.BRANCH:
        _require_new(connection, revision)
    if revision.kind is RevisionKind.PROMOTE:
        promotions.require_forward(connection, revision)
    protection.require_approved(connection, revision)


def lock(connection: Connection, revision: Revision) -> None:
    """Hold what ``revision`` depends on until the transaction ends.

    Raises:
        ModelNotFoundError: the ledger does not know the model.
        BranchNotFoundError: the model has no such branch.
        RevisionNotFoundError: the source is not there.
    """
    if revision.kind is RevisionKind.BRANCH:
        models.lock(connection, revision.model)
        return
    if revision.protected and revision.kind in protection.GUARDED:
        models.lock(connection, revision.model)  # reports and approvals are stored under it
    names = {revision.branch}
    if revision.source != NO_SOURCE:
        names.add(references.by_id(connection, revision.model, revision.source).branch)
    for name in sorted(names):
        revisions.lock_head(connection, revision.model, name)


def _start(connection: Connection, revision: Revision) -> Revision:
    """Insert the first revision of a new branch."""
    if revision.sequence != 0 or revision.edits or not revision.request_id:
        raise InvalidInputError(
            "the first revision of a branch has sequence 0, no edits and a request id",
            field="sequence",
        )
    stored = models.digest(connection, revision.model)
    models.require_same_checkpoint(revision.model, stored=stored, given=revision.model_digest)
    protection.require_kept(connection, revision)
    require_allowed(connection, revision)
    try:
        revisions.begin(connection, revision)
    except IntegrityError as error:
        # The lock keeps new branches apart; keys catch one request id sent to a branch as well.
        raise StaleRevisionError(
            f"another writer took the name {revision.branch!r} or the request id at the same "
            "moment; retry",
            branch=revision.branch,
        ) from error
    return revision


def _require_new(connection: Connection, revision: Revision) -> None:
    columns = tables.branches.c
    statement = select(columns.name).where(
        columns.model == revision.model, columns.name == revision.branch
    )
    if connection.scalar(statement) is not None:
        raise BranchExistsError(
            f"model {revision.model!r} has a branch {revision.branch!r} already; "
            "`errata branch list` shows all; use another name",
            branch=revision.branch,
        )
