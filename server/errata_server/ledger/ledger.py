"""The ledger as the use cases see it: each method is one transaction.

Invariants: artifact before edit, edit and report before revision; a revision is appended on
top of its branch's head or not at all; what is written finds by its ids what it has stored
before, so that a commit whose outcome is unknown is settled before anybody hears of it. What an
operation stores is stored under the lease it was started under (`leases.under`), or not at all.
"""

from collections.abc import Callable, Sequence
from itertools import count

from sqlalchemy import Connection

from errata_server.domain.checks import Report
from errata_server.domain.edits import AppliedSet, Approval, Edit
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
    commits,
    edit_evidence,
    edits,
    leases,
    models,
    operations,
    references,
    revisions,
    suites,
)
from errata_server.ledger.audit import AuditResult, audit
from errata_server.ledger.database import Database
from errata_server.ledger.edit_evidence import Evidence
from errata_server.ledger.log import LogReader
from errata_server.ledger.revisions import Branch
from errata_server.ledger.suites import NewSuite


class Ledger:
    """Append-only history of what every model of a database was made to believe.

    Every method may raise `LedgerUnavailableError`; every one that reads bodies may raise
    `LedgerCorruptError`, naming the row.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.log = LogReader(database)

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

        def register(connection: Connection) -> None:
            if models.add(connection, model, description):
                revisions.begin(connection, genesis)

        self._database.write(register)

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

        def put(connection: Connection) -> None:
            leases.require(connection)
            models.add_profile(connection, model, profile)

        self._database.write(put)

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
        return self._database.write(lambda connection: artifacts.put(connection, payload))

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

        def record(connection: Connection) -> None:
            leases.require(connection)
            edits.add(connection, edit, report)

        self._database.write(record)

    def record_report(self, report: Report) -> None:
        """Make ``report`` the latest of its edit; storing the same again changes nothing.

        Raises:
            EditNotFoundError: the edit is not in the ledger.
        """

        def record(connection: Connection) -> None:
            leases.require(connection)
            edits.add_report(connection, report)

        self._database.write(record)

    def record_approval(self, approval: Approval, request_id: RequestId) -> Approval:
        """Store ``approval``, or return the one this request gave earlier.

        Raises:
            EditNotFoundError: the edit is not in the ledger.
            ReportNotFoundError: the report is not in the ledger, or another edit's.
            RequestIdReusedError: the request gave another approval before.
        """
        return self._database.write(
            lambda connection: edits.add_approval(connection, approval, request_id)
        )

    def edit(self, edit: EditId) -> Edit:
        """The edit of this id.

        Raises:
            EditNotFoundError: it is not in the ledger.
        """
        with self._database.reading() as connection:
            return edits.get(connection, edit)

    def edits(self, ids: Sequence[EditId]) -> list[Edit]:
        """The edits of these ids, in their order.

        Raises:
            EditNotFoundError: one is not in the ledger.
        """
        with self._database.reading() as connection:
            return edits.several(connection, ids)

    def edit_ids(self, model: ModelId, *, limit: int, after: EditId | None = None) -> list[EditId]:
        """At most ``limit`` edits, newest first, those older than ``after`` where given.

        Raises:
            EditNotFoundError: ``after`` is not in the ledger.
        """
        with self._database.reading() as connection:
            return edits.ids(connection, model, limit=limit, after=after)

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

    def evidence(
        self, model: ModelId, edits: Sequence[EditId], branch: BranchName = MAIN
    ) -> Evidence:
        """What other rows say of each of ``edits``, in a few statements for all of them.

        Raises:
            BranchNotFoundError: ``model`` has no such branch.
        """
        with self._database.reading() as connection:
            return edit_evidence.gather(connection, model, edits, branch)

    # Revisions

    def append(self, revision: Revision) -> Revision:
        """Put ``revision`` on top of its branch, or return what its request made earlier.

        A revision of kind ``branch`` begins a branch of its own.

        Raises:
            StaleRevisionError: ``revision.parent`` is not the branch's head, or the source of
                a promotion not that of its; the metadata holds ``expected``, ``head`` and
                ``sequence``.
            BranchExistsError: the branch it would begin exists.
            DivergedError: it is a promotion, and its branch has changes of its own.
            ApprovalRequiredError: its branch is protected, and an edit lacks an approval.
            VerificationFailedError: its branch is protected, and an edit failed its checks.
            RequestIdReusedError: the request id made another revision before.
            ModelNotFoundError, BranchNotFoundError: there is nothing to append to.
            ModelMismatchError: it belongs to another checkpoint than the history.
            EditNotFoundError, ReportNotFoundError: it vouches for what the ledger lacks.
            LedgerUnavailableError: where the metadata says ``outcome`` is unknown, the
                same call repeated tells.
        """
        return self._database.write(lambda connection: commits.commit(connection, revision))

    def require_allowed(self, revision: Revision) -> None:
        """Do nothing if the history and the policy of its branch let ``revision`` in.

        Raises:
            BranchExistsError: the branch it would begin exists.
            DivergedError: it is a promotion, and its branch has changes of its own.
            ApprovalRequiredError: its branch is protected, and an edit lacks an approval.
            VerificationFailedError: its branch is protected, and an edit failed its checks.
            StaleRevisionError: an edit was verified again since it was made.
        """
        with self._database.reading() as connection:
            commits.require_allowed(connection, revision)

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

    def applied(self, model: ModelId, revision: RevisionId, *, anew: bool = False) -> AppliedSet:
        """The edits applied and not reverted at this revision, oldest first.

        Args:
            model: Whose revision.
            revision: Its id.
            anew: Whether to read all that led to it, whatever a connection remembers of it.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
            RevisionNotFoundError: the model has no such revision.
        """
        with self._database.reading() as connection:
            stored = references.by_id(connection, model, revision)
            return applied.fold(connection, stored, anew=anew)

    def audit(
        self, model: ModelId, *, objection: Callable[[Edit], str] = lambda _: ""
    ) -> AuditResult:
        """Recompute everything the ledger says of ``model`` and name every wrong row.

        Args:
            model: Which model's rows.
            objection: What is wrong with a proposer's signature on an edit; empty if nothing.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
        """
        with self._database.reading() as connection:
            return audit(connection, model, objection=objection)

    # Suites

    def add_suite(self, suite: NewSuite) -> SuiteVersion:
        """Store the next version of a suite, or return what its request stored earlier.

        Raises:
            ModelNotFoundError: the ledger does not know the model.
            RequestIdReusedError: the request id stored something else before.
        """
        return self._database.write(lambda connection: suites.add(connection, suite))

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
        return self._database.write(
            lambda connection: operations.start(connection, operation, leases.require(connection))
        )

    def repeated_operation(self, operation: Operation) -> Operation | None:
        """What the request behind ``operation`` started earlier, if it did.

        Raises:
            RequestIdReusedError: the request id started another operation before.
        """
        with self._database.reading() as connection:
            return operations.repeated(connection, operation)

    def finish_operation(self, operation: Operation) -> None:
        """Record how a running operation ended; recording the same again changes nothing.

        Raises:
            OperationNotFoundError: it was never started.
            PreconditionError: it ended otherwise before, or has not ended.
        """

        def finish(connection: Connection) -> None:
            leases.require(connection)
            operations.finish(connection, operation)

        self._database.write(finish)

    def forget_operation(self, operation: OperationId) -> None:
        """Remove an operation that has ended; its request id may be used again.

        Raises:
            OperationNotFoundError: the ledger does not hold it.
            PreconditionError: it has not ended.
        """
        runs = count()

        def forget(connection: Connection) -> None:
            again = next(runs) > 0
            if not again or operations.exists(connection, operation):
                operations.forget(connection, operation)

        self._database.write(forget)

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
