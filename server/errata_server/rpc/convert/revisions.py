"""Revisions, branches, diffs, audits, and what a reply says about its weights."""

from typing import Final

from errata.v1 import ledger_pb2, types_pb2
from errata_server.domain.ids import Digest
from errata_server.domain.patches import Composition
from errata_server.domain.revisions import Revision, RevisionKind
from errata_server.rpc.convert import edits, names, values
from errata_server.service.views import Diff, Pinned

COMPOSITIONS: Final = {
    Composition.GUARDED: types_pb2.COMPOSITION_GUARDED,
    Composition.LINEAR: types_pb2.COMPOSITION_LINEAR,
}
KINDS: Final = {
    RevisionKind.GENESIS: types_pb2.REVISION_KIND_GENESIS,
    RevisionKind.APPLY: types_pb2.REVISION_KIND_APPLY,
    RevisionKind.REVERT: types_pb2.REVISION_KIND_REVERT,
    RevisionKind.PROMOTE: types_pb2.REVISION_KIND_PROMOTE,
    RevisionKind.POLICY: types_pb2.REVISION_KIND_POLICY,
    RevisionKind.BRANCH: types_pb2.REVISION_KIND_BRANCH,
}


def served(pinned: Pinned) -> types_pb2.Served:
    """Which weights answered a request."""
    return served_at(pinned.revision, pinned.weights.digest)


def served_at(revision: Revision, weights: Digest) -> types_pb2.Served:
    """A revision, and the digest of the weights that answered at it."""
    return types_pb2.Served(
        revision=names.revision_name(revision.model, revision.id),
        sequence=revision.sequence,
        branch=revision.branch,
        active_set_digest=revision.active_set_digest,
        weights_digest=weights,
    )


def revision_message(revision: Revision) -> types_pb2.Revision:
    """A revision with the bytes its id is taken over."""
    model = revision.model
    return types_pb2.Revision(
        name=names.revision_name(model, revision.id),
        sequence=revision.sequence,
        branch=revision.branch,
        parent=names.revision_name(model, revision.parent),
        kind=KINDS[revision.kind],
        edits=[names.edit_name(model, reference.edit) for reference in revision.edits],
        superseded=[names.edit_name(model, edit) for edit in revision.superseded],
        restored=[names.edit_name(model, edit) for edit in revision.restored],
        active_count=revision.active_count,
        composition=COMPOSITIONS[revision.composition],
        active_set_digest=revision.active_set_digest,
        weights_digest=revision.weights_digest,
        actor=revision.actor,
        reason=revision.reason,
        ticket=revision.ticket,
        override_reason=revision.override,
        request_id=revision.request_id,
        create_time=values.timestamp(revision.created_at),
        body=revision.body,
        source=names.revision_name(model, revision.source),
        removed=[names.edit_name(model, reference.edit) for reference in revision.removed],
        protected=revision.protected,
    )


def branch_message(head: Revision) -> types_pb2.Branch:
    """A branch, known by its head."""
    return types_pb2.Branch(
        name=names.branch_resource(head.model, head.branch),
        head=revision_message(head),
        protected=head.protected,
    )


def diff_message(diff: Diff) -> ledger_pb2.DiffRevisionsResponse:
    """Which edits two revisions differ by."""
    message = ledger_pb2.DiffRevisionsResponse(
        to=revision_message(diff.end),
        added=[edits.edit_message(view) for view in diff.added],
        removed=[edits.edit_message(view) for view in diff.removed],
        unchanged_count=diff.unchanged,
    )
    # "from" is a keyword, so Python can name the field in no other way.
    getattr(message, "from").CopyFrom(revision_message(diff.start))
    return message
