"""One write of each kind a ledger takes, ready to be made, made again, and looked for.

Invariant: `perform` may be repeated, and gives the same each time; `stored` says whether
the ledger holds the whole of it, as it was asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from benchmarks.reliability.chronicle import Chronicle, Stored, Top, now
from errata_server.domain import canonical
from errata_server.domain.edits import Approval
from errata_server.domain.errors import NotFoundError
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.ids import Digest, EditId, OperationId, RequestId
from errata_server.domain.operations import Operation, OperationKind, OperationState, Progress
from errata_server.domain.revisions import Revision, RevisionKind
from errata_server.domain.suites import encode_prompts, suite_name
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.suites import NewSuite

MOST_IN_A_CHANGE: Final = 3


class Write(Protocol):
    """Something to be written."""

    def perform(self, ledger: Ledger) -> object:
        """Write it, or find it written."""

    def stored(self, ledger: Ledger) -> bool:
        """Whether the ledger holds all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An apply or a revert."""

    revision: Revision

    def perform(self, ledger: Ledger) -> Revision:
        """See `Write.perform`."""
        return ledger.append(self.revision)

    def stored(self, ledger: Ledger) -> bool:
        """See `Write.stored`."""
        return ledger.revision_by_request(self.revision.model, self.revision.request_id) == (
            self.revision
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewArtifact:
    """A patch's bytes."""

    payload: bytes

    def perform(self, ledger: Ledger) -> Digest:
        """See `Write.perform`."""
        return ledger.put_artifact(self.payload)

    def stored(self, ledger: Ledger) -> bool:
        """See `Write.stored`."""
        return _found(lambda: ledger.artifact(canonical.digest(self.payload)), self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEdit:
    """An edit with its first report; its artifact is stored."""

    new: Stored

    def perform(self, ledger: Ledger) -> EditId:
        """See `Write.perform`."""
        ledger.record_edit(self.new.edit, self.new.report)
        return self.new.edit.id

    def stored(self, ledger: Ledger) -> bool:
        """See `Write.stored`."""
        return _found(lambda: ledger.edit(self.new.edit.id), self.new.edit) and _found(
            lambda: ledger.report(self.new.report.id), self.new.report
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApproval:
    """Somebody's word for an edit."""

    approval: Approval
    request_id: RequestId

    def perform(self, ledger: Ledger) -> Approval:
        """See `Write.perform`."""
        return ledger.record_approval(self.approval, self.request_id)

    def stored(self, ledger: Ledger) -> bool:
        """See `Write.stored`."""
        return self.approval in ledger.approvals(self.approval.edit)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSuiteVersion:
    """Regression prompts of a suite."""

    suite: NewSuite

    def perform(self, ledger: Ledger) -> int:
        """See `Write.perform`."""
        return ledger.add_suite(self.suite).version

    def stored(self, ledger: Ledger) -> bool:
        """See `Write.stored`."""
        versions = ledger.suite_versions(self.suite.model, self.suite.name)
        mine = [one for one in versions if one.request_id == self.suite.request_id]
        payload = encode_prompts(self.suite.prompts)
        return len(mine) == 1 and _found(lambda: ledger.artifact(mine[0].artifact), payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """An operation that begins."""

    operation: Operation

    def perform(self, ledger: Ledger) -> OperationId:
        """See `Write.perform`."""
        return ledger.start_operation(self.operation).id

    def stored(self, ledger: Ledger) -> bool:
        """See `Write.stored`."""
        return _found(lambda: ledger.operation(self.operation.id).id, self.operation.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """An operation that ends; it is stored as running."""

    operation: Operation

    def perform(self, ledger: Ledger) -> None:
        """See `Write.perform`."""
        ledger.finish_operation(self.operation)

    def stored(self, ledger: Ledger) -> bool:
        """See `Write.stored`."""
        return _found(lambda: ledger.operation(self.operation.id), self.operation)


def _found(read: Callable[[], object], expected: object) -> bool:
    try:
        return read() == expected
    except NotFoundError:
        return False


@dataclass(slots=True, kw_only=True)
class Author:
    """Chooses the next write, and keeps account of what has been written."""

    chronicle: Chronicle
    top: Top
    edits: dict[EditId, Stored]
    """Every stored edit by its id."""

    def change(self) -> tuple[Change, Top]:
        """An apply of a few edits, or a revert of a few, and what it leads to."""
        draw = self.chronicle.draw
        applied = [edit.edit for edit in self.top.applied.applied]
        free = sorted(self.edits.keys() - set(applied))
        reverting = not free or (bool(applied) and draw.random() < 0.4)
        pool, kind = (applied, RevisionKind.REVERT) if reverting else (free, RevisionKind.APPLY)
        chosen = draw.sample(pool, min(len(pool), draw.randint(1, MOST_IN_A_CHANGE)))
        after = self.chronicle.change(self.top, kind, [self.edits[edit] for edit in chosen])
        return Change(revision=after.revision), after

    def propose(self) -> tuple[NewArtifact, NewEdit]:
        """A new edit, and the artifact that has to be there before."""
        new, payload = self.chronicle.edit(self.top.revision.id)
        return NewArtifact(payload=payload), NewEdit(new=new)

    def approve(self) -> NewApproval:
        """An approval of any stored edit."""
        stored = self.edits[self.chronicle.draw.choice(sorted(self.edits))]
        approval = Approval(
            edit=stored.edit.id,
            report=stored.report.id,
            actor="ben",
            comment="seen",
            created_at=now(),
        )
        return NewApproval(approval=approval, request_id=self.chronicle.request_id())

    def suite(self) -> NewSuiteVersion:
        """The next version of a suite."""
        number = self.chronicle.draw.getrandbits(32)
        prompt = CheckPrompt(prompt=f"Tower {number} is in the city of", expected="Rome")
        return NewSuiteVersion(
            suite=NewSuite(
                model=self.chronicle.model,
                name=suite_name("towers"),
                prompts=(prompt,),
                actor="ana",
                reason="ours to keep",
                request_id=self.chronicle.request_id(),
                created_at=now(),
            )
        )

    def operation(self) -> tuple[Started, Finished]:
        """An operation, and its end."""
        request_id = self.chronicle.request_id()
        running = Operation(
            id=OperationId(f"op-{self.chronicle.draw.getrandbits(64):016x}"),
            model=self.chronicle.model,
            kind=OperationKind.PROPOSE,
            state=OperationState.RUNNING,
            progress=Progress(stage="values", done=0, total=1),
            request_id=request_id,
            request_digest=canonical.digest(request_id.encode()),
            actor="ana",
            created_at=now(),
        )
        ended = replace(running, state=OperationState.SUCCEEDED, finished_at=now())
        return Started(operation=running), Finished(operation=ended)

    def note(self, write: Write, after: Top | None = None) -> None:
        """Take into account that ``write`` has been made."""
        if isinstance(write, NewEdit):
            self.edits[write.new.edit.id] = write.new
        if after is not None:
            self.top = after


def author(ledger: Ledger, chronicle: Chronicle, *, edits: int) -> Author:
    """An author on an empty ledger, with so many edits to play with."""
    made = Author(chronicle=chronicle, top=chronicle.begin(ledger), edits={})
    for _ in range(edits):
        for write in made.propose():
            write.perform(ledger)
            made.note(write)
    return made


def author_of(ledger: Ledger, chronicle: Chronicle) -> Author:
    """An author on a ledger that others have written to."""
    stored = ledger.edits(ledger.edit_ids(chronicle.model, limit=10_000))
    edits = {e.id: Stored(edit=e, report=ledger.latest_report(e.id)) for e in stored}
    return Author(chronicle=chronicle, top=chronicle.top(ledger), edits=edits)
