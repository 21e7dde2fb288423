"""The ledger as the use cases see it: each method is one transaction.

Invariants: artifact before edit, edit and report before revision; a revision is appended on
top of its branch's head or not at all; a commit whose outcome is unknown is settled by its
request id before anybody hears of it.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from errata_server.domain.checks import Report
from errata_server.domain.edits import AppliedSet, Approval, Edit
from errata_server.domain.errors import LedgerUnavailableError
from errata_server.domain.ids import (
    MAIN,
    BranchName,
    Digest,
    EditId,
    ModelId,
    OperationId,
    ProfileId,
    ReportId,
    RequestId,
    RevisionId,
    SuiteName,
)
from errata_server.domain.operations import Operation
from errata_server.domain.profiles import ModelDescription, Profile
from errata_server.domain.revisions import Revision
from errata_server.domain.suites import SuiteVersion
from errata_server.ledger import (
    applied,
    artifacts,
    edit_evidence,
    edits,
    models,
    operations,
    references,
    revisions,
    suites,
)
from errata_server.ledger.audit import AuditResult, audit
from errata_server.ledger.database import OUTCOME_UNKNOWN, Database
from errata_server.ledger.edit_evidence import EditEvidence
from errata_server.ledger.revisions import Branch
from errata_server.ledger.suites import NewSuite

SETTLING_PAUSES: Final = (0.0, 0.5, 2.0)
"""Seconds before each attempt to learn what an interrupted commit came to."""


class Ledger:
    """Append-only history of what every model of a database was made to believe.

    Every method may raise `LedgerUnavailableError`; every one that reads bodies may raise
    `LedgerCorruptError`, naming the row.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # Models and profiles

    def register_model(
        self, model: ModelId, description: ModelDescription, *, genesis: Revision
    ) -> None:
        """Make ``model`` known with its first revision, unless it is known already.

        Raises:
            ModelMismatchError: it is known by another checkpoint.
            InvalidInputError: ``genesis`` cannot be a first revision.
        """
        revisions.require_genesis(model, genesis)
        models.require_same_checkpoint(model, stored=description.digest, given=genesis.model_digest)
        with self._database.writing() as connection:
            if not models.add(connection, model, description):
                return
            revisions.add_genesis(connection, genesis)

    def model(self, model: ModelId) -> ModelDescription:
        """The model as the ledger first met it.

        Raises:
            ModelNotFoundError: the ledger does not know it.
        """
        with self._database.reading() as connection:
            return models.get(connection, model)

    def put_profile(self, model: ModelId, profile: Profile) -> None:
        """Make ``profile`` the latest of ``model``; it may have been so before.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
            ModelMismatchError: the profile was made for another checkpoint.
        """
        with self._database.writing() as connection:
            models.add_profile(connection, model, profile)

    def profile(self, profile: ProfileId) -> Profile:
        """The profile of this id.

        Raises:
            NotFoundError: the ledger does not hold it.
        """
        with self._database.reading() as connection:
            return models.profile(connection, profile)

    def latest_profile(self, model: ModelId) -> Profile | None:
        """The profile stored last for ``model``, if there is one."""
        with self._database.reading() as connection:
            return models.latest_profile(connection, model)

    # Artifacts, edits, reports, approvals

    def put_artifact(self, payload: bytes) -> Digest:
        """Store ``payload`` under its digest, unless it is there already."""
        with self._database.writing() as connection:
            return artifacts.put(connection, payload)

    def artifact(self, digest: Digest) -> bytes:
        """The artifact's bytes, hashed again.

        Raises:
            NotFoundError: the ledger does not hold it.
        """
        with self._database.reading() as connection:
            return artifacts.get(connection, digest)

    def artifacts(self, digests: Sequence[Digest]) -> dict[Digest, bytes]:
        """Those of ``digests`` that the ledger holds, each hashed again."""
        with self._database.reading() as connection:
            return artifacts.get_all(connection, digests)

    def record_edit(self, edit: Edit, report: Report) -> None:
        """Store a new edit with its first report; storing the same again changes nothing.

        Raises:
            NotFoundError: the model or the artifact is not stored yet.
            NotCalibratedError: the profile is not stored yet.
            InvalidInputError: the id belongs to another edit, or the report to another one.
        """
        with self._database.writing() as connection:
            edits.add(connection, edit, report)

    def record_report(self, report: Report) -> None:
        """Make ``report`` the latest of its edit; storing the same again changes nothing.

        Raises:
            EditNotFoundError: the edit is not in the ledger.
        """
        with self._database.writing() as connection:
            edits.add_report(connection, report)

    def record_approval(self, approval: Approval, request_id: RequestId) -> Approval:
        """Store ``approval``, or return the one this request gave earlier.

        Raises:
            EditNotFoundError: the edit is not in the ledger.
            ReportNotFoundError: the report is not in the ledger, or another edit's.
            RequestIdReusedError: the request gave another approval before.
        """
        with self._database.writing() as connection:
            return edits.add_approval(connection, approval, request_id)

    def edit(self, edit: EditId) -> Edit:
        """The edit of this id.

        Raises:
            EditNotFoundError: it is not in the ledger.
        """
        with self._database.reading() as connection:
            return edits.get(connection, edit)

    def edits(self, model: ModelId, *, limit: int, after: EditId | None = None) -> list[Edit]:
        """At most ``limit`` edits, newest first, those older than ``after`` where given.

        Raises:
            EditNotFoundError: ``after`` is not in the ledger.
        """
        with self._database.reading() as connection:
            return edits.page(connection, model, limit=limit, after=after)

    def report(self, report: ReportId) -> Report:
        """The report of this id.

        Raises:
            ReportNotFoundError: it is not in the ledger.
        """
        with self._database.reading() as connection:
            return edits.report(connection, report)

    def latest_report(self, edit: EditId) -> Report:
        """The report stored last for ``edit``.

        Raises:
            EditNotFoundError: the edit is not in the ledger.
        """
        with self._database.reading() as connection:
            return edits.latest_report(connection, edit)

    def approvals(self, edit: EditId) -> list[Approval]:
        """The edit's approvals, oldest first.

        Raises:
            EditNotFoundError: the edit is not in the ledger.
        """
        with self._database.reading() as connection:
            return edits.approvals(connection, edit)

    def was_applied(self, edit: EditId, branch: BranchName = MAIN) -> bool:
        """Whether a revision of ``branch`` has ever applied the edit.

        Raises:
            EditNotFoundError: the edit is not in the ledger.
        """
        with self._database.reading() as connection:
            return edits.was_applied(connection, edit, branch)

    def evidence(
        self, edits: Sequence[EditId], branch: BranchName = MAIN
    ) -> dict[EditId, EditEvidence]:
        """What other rows say of each of ``edits``, in a few statements for all of them."""
        with self._database.reading() as connection:
            return edit_evidence.gather(connection, edits, branch)

    # Revisions

    def append(self, revision: Revision) -> Revision:
        """Put ``revision`` on top of its branch, or return what its request made earlier.

        Raises:
            StaleRevisionError: ``revision.parent`` is not the branch's head; the metadata
                holds ``expected``, ``head`` and ``sequence``.
            RequestIdReusedError: the request id made another revision before.
            ModelNotFoundError, BranchNotFoundError: there is nothing to append to.
            ModelMismatchError: it belongs to another checkpoint than the history.
            EditNotFoundError, ReportNotFoundError: it vouches for what the ledger lacks.
            LedgerUnavailableError: where the metadata says ``outcome`` is unknown, the
                same call repeated tells.
        """
        try:
            with self._database.writing() as connection:
                return revisions.append(connection, revision)
        except LedgerUnavailableError as lost:
            if lost.metadata.get("outcome") != OUTCOME_UNKNOWN:
                raise
            settled = self._settle(revision)
            if settled is None:
                raise
            return settled

    def _settle(self, revision: Revision) -> Revision | None:
        """The revision an interrupted commit made, if that can be found out soon."""
        for pause in SETTLING_PAUSES:
            time.sleep(pause)
            try:
                return self._committed(revision)
            except LedgerUnavailableError:
                continue
        return None

    def _committed(self, revision: Revision) -> Revision | None:
        with self._database.writing() as connection:
            # The lock waits for the lost connection's transaction, should it still run.
            revisions.lock_head(connection, revision.model, revision.branch)
            return revisions.repeated(connection, revision)

    def revision_by_request(self, model: ModelId, request_id: RequestId) -> Revision | None:
        """The revision this request made, if it made one."""
        with self._database.reading() as connection:
            return revisions.by_request(connection, model, request_id)

    def head(self, model: ModelId, branch: BranchName = MAIN) -> Revision:
        """The branch's newest revision.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
            BranchNotFoundError: the model has no such branch.
        """
        with self._database.reading() as connection:
            return revisions.head(connection, model, branch)

    def branches(self, model: ModelId) -> list[Branch]:
        """The model's branches by name.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
        """
        with self._database.reading() as connection:
            return revisions.branches(connection, model)

    def revision(self, model: ModelId, revision: RevisionId) -> Revision:
        """The revision of this full id.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
            RevisionNotFoundError: the model has no such revision.
        """
        with self._database.reading() as connection:
            return references.by_id(connection, model, revision)

    def find_revision(self, model: ModelId, reference: str) -> Revision:
        """The revision ``reference`` names; see `references.find` for what may be written.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
            RevisionNotFoundError: it names none, or more than one.
        """
        with self._database.reading() as connection:
            return references.find(connection, model, reference)

    def revisions(
        self,
        model: ModelId,
        branch: BranchName = MAIN,
        *,
        start: int = 0,
        before: int | None = None,
        limit: int,
        newest_first: bool = False,
    ) -> list[Revision]:
        """At most ``limit`` revisions from sequence ``start`` on and below ``before``.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
            BranchNotFoundError: the model has no such branch.
        """
        with self._database.reading() as connection:
            return revisions.page(
                connection,
                model,
                branch,
                span=(start, before),
                limit=limit,
                newest_first=newest_first,
            )

    def applied(self, model: ModelId, revision: RevisionId) -> AppliedSet:
        """The edits applied and not reverted at this revision, oldest first.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
            RevisionNotFoundError: the model has no such revision.
        """
        with self._database.reading() as connection:
            return applied.fold(connection, references.by_id(connection, model, revision))

    def audit(self, model: ModelId) -> AuditResult:
        """Recompute everything the ledger says of ``model`` and name every wrong row.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
        """
        with self._database.reading() as connection:
            return audit(connection, model)

    # Suites

    def add_suite(self, suite: NewSuite) -> SuiteVersion:
        """Store the next version of a suite, or return what its request stored earlier.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
            RequestIdReusedError: the request id stored something else before.
        """
        with self._database.writing() as connection:
            return suites.add(connection, suite)

    def suite(self, model: ModelId, name: SuiteName, version: int | None = None) -> SuiteVersion:
        """A version of a suite, the latest where none is named.

        Raises:
            SuiteNotFoundError: there is none.
        """
        with self._database.reading() as connection:
            return suites.get(connection, model, name, version)

    def suite_versions(self, model: ModelId, name: SuiteName) -> list[SuiteVersion]:
        """Every version of a suite, newest first."""
        with self._database.reading() as connection:
            return suites.versions(connection, model, name)

    def suites(self, model: ModelId) -> list[SuiteVersion]:
        """The latest version of every suite, by name."""
        with self._database.reading() as connection:
            return suites.latest(connection, model)

    # Operations

    def start_operation(self, operation: Operation) -> Operation:
        """Store a running operation, or return the one its request started earlier.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
            RequestIdReusedError: the request id started another operation before.
        """
        with self._database.writing() as connection:
            return operations.start(connection, operation)

    def finish_operation(self, operation: Operation) -> None:
        """Record how a running operation ended; recording the same again changes nothing.

        Raises:
            OperationNotFoundError: it was never started.
            PreconditionError: it ended otherwise before, or has not ended.
        """
        with self._database.writing() as connection:
            operations.finish(connection, operation)

    def forget_operation(self, operation: OperationId) -> None:
        """Remove an operation that has ended; its request id may be used again.

        Raises:
            OperationNotFoundError: the ledger does not hold it.
            PreconditionError: it has not ended.
        """
        with self._database.writing() as connection:
            operations.forget(connection, operation)

    def operation(self, operation: OperationId) -> Operation:
        """The operation of this id.

        Raises:
            OperationNotFoundError: the ledger does not hold it.
        """
        with self._database.reading() as connection:
            return operations.get(connection, operation)

    def operations(
        self, model: ModelId, limit: int, after: OperationId | None = None
    ) -> list[Operation]:
        """At most ``limit`` operations, newest first, those older than ``after`` where given.

        Raises:
            OperationNotFoundError: ``after`` is not in the ledger.
        """
        with self._database.reading() as connection:
            return operations.page(connection, model, limit=limit, after=after)

    def interrupt_running_operations(self, model: ModelId, *, at: datetime | None = None) -> int:
        """End what was running when the last server stopped, as failed with INTERRUPTED.

        Args:
            at: When they ended; the present where left out.

        Returns:
            How many there were.
        """
        ended = datetime.now(UTC) if at is None else at
        with self._database.writing() as connection:
            return operations.interrupt_running(connection, model, ended)
