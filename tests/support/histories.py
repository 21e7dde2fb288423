"""Short ways to write a history into a real ledger, as the use cases would."""

from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count

from errata_server.domain import canonical
from errata_server.domain.checks import Check, CheckKind, Report, Verdict
from errata_server.domain.edits import AppliedEdit, AppliedSet, Approval, Edit
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.ids import (
    MAIN,
    BranchName,
    Digest,
    EditId,
    ModelId,
    OperationId,
    RequestId,
    RevisionId,
)
from errata_server.domain.operations import Operation, OperationKind, OperationState, Progress
from errata_server.domain.patches import Composition
from errata_server.domain.profiles import ModelDescription, Profile
from errata_server.domain.revisions import (
    NO_SOURCE,
    EditReference,
    Revision,
    RevisionKind,
)
from errata_server.domain.suites import SuiteVersion, suite_name
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.suites import NewSuite
from tests.support import MODEL, NOON, edit_request

CHECKPOINT = canonical.digest(b"a checkpoint")


def description(digest: Digest = CHECKPOINT) -> ModelDescription:
    """A small model."""
    return ModelDescription(
        digest=digest,
        source="tiny",
        architecture="gpt2",
        layers=2,
        d_model=8,
        d_in=32,
        vocabulary=64,
        context=128,
        parameters=4_000,
        dtype="float32",
        device="cpu",
    )


def profile(seed: int = 0, *, digest: Digest = CHECKPOINT) -> Profile:
    """A calibrated profile; another one for each seed."""
    return Profile(
        model_digest=digest,
        layer=1,
        module="h.1.mlp.c_proj",
        d_in=32,
        d_out=8,
        prefixes=("", "Yesterday."),
        learning_rate=0.5,
        clamp=4.0,
        max_steps=25,
        kl_weight=0.0625,
        decay_weight=0.5,
        stop_probability=0.95,
        guard_width=0.3,
        ridge=0.01,
        moment_corpus=canonical.digest(b"a corpus"),
        moment_tokens=10_000,
        sequence_length=64,
        mean_value_norm=12.5,
        seed=seed,
        evidence=({"layer": 1.0, "efficacy": 0.99},),
    )


def genesis(model: ModelId = MODEL, digest: Digest = CHECKPOINT) -> Revision:
    """The first revision of a model."""
    return Revision.genesis(
        model=model,
        model_digest=digest,
        composition=Composition.GUARDED,
        weights_digest=canonical.digest(b"nothing composed"),
        request_digest=canonical.digest(b"genesis"),
        created_at=NOON,
    )


def operation(
    identifier: str = "op-1", *, request_id: str = "r-1", request: bytes = b"propose"
) -> Operation:
    """A running operation."""
    return Operation(
        id=OperationId(identifier),
        model=MODEL,
        kind=OperationKind.PROPOSE,
        state=OperationState.RUNNING,
        progress=Progress(stage="keys", done=0, total=3),
        request_id=RequestId(request_id),
        request_digest=canonical.digest(request),
        actor="ana",
        created_at=NOON,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An edit and the report stored with it."""

    edit: Edit
    report: Report

    @property
    def applied(self) -> AppliedEdit:
        """The edit as a branch sees it."""
        return AppliedEdit.of(self.edit)

    @property
    def reference(self) -> EditReference:
        """The edit as a revision vouches for it."""
        return EditReference.of(self.edit, self.report)


class Chronicler:
    """Writes edits and revisions of one model into a ledger, minute by minute."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._minutes = count()
        ledger.register_model(MODEL, description(), genesis=genesis())
        ledger.put_profile(MODEL, profile())

    def _now(self):
        return NOON + timedelta(minutes=next(self._minutes))

    def new_edit(self, subject: str = "Space Needle", target: str = "Paris") -> Edit:
        """An edit that is not stored yet, though its artifact is."""
        number = next(self._minutes)
        return Edit(
            id=EditId(f"e-{number:012x}"),
            model=MODEL,
            request=edit_request(subject, target),
            patch=self.ledger.put_artifact(f"patch {number}: {subject} -> {target}".encode()),
            profile=profile().id,
            proposer="ana",
            created_at=NOON + timedelta(minutes=number),
        )

    def new_report(self, edit: Edit) -> Report:
        """A report on ``edit`` that is not stored yet."""
        return Report(
            model=MODEL,
            edit=edit.id,
            patch=edit.patch,
            profile=edit.profile,
            against=self.ledger.head(MODEL, MAIN).id,
            composition=Composition.GUARDED,
            policy=canonical.digest(b"a policy"),
            checks=(
                Check(
                    kind=CheckKind.EFFICACY,
                    verdict=Verdict.PASSED,
                    measured=1.0,
                    threshold=1.0,
                    comparison=">=",
                    explanation="1 of 1 prompts gives the target",
                ),
            ),
            created_at=self._now(),
        )

    def propose(self, subject: str = "Space Needle", target: str = "Paris") -> Stored:
        """A stored edit."""
        edit = self.new_edit(subject, target)
        report = self.new_report(edit)
        self.ledger.record_edit(edit, report)
        return Stored(edit=edit, report=report)

    def approve(self, stored: Stored, request_id: str) -> Approval:
        """A stored approval."""
        approval = Approval(
            edit=stored.edit.id,
            report=stored.report.id,
            actor="ben",
            comment="seen",
            created_at=self._now(),
        )
        return self.ledger.record_approval(approval, RequestId(request_id))

    def add_suite(self, name: str, *prompts: str, request_id: str = "") -> SuiteVersion:
        """A stored version of a suite, whose prompts all expect Seattle."""
        return self.ledger.add_suite(
            NewSuite(
                model=MODEL,
                name=suite_name(name),
                prompts=tuple(CheckPrompt(prompt=text, expected="Seattle") for text in prompts),
                actor="ana",
                reason="ours to keep",
                request_id=RequestId(request_id or f"suite-{next(self._minutes)}"),
                created_at=self._now(),
            )
        )

    def next_revision(
        self, kind: RevisionKind, *edits: Stored, request_id: str = "", branch: str = MAIN
    ) -> Revision:
        """The revision that applies or reverts ``edits`` on top of a branch; not stored yet."""
        head = self.ledger.head(MODEL, BranchName(branch))
        before = self.ledger.applied(MODEL, head.id)
        after = (
            before.apply(edit.applied for edit in edits)
            if kind is RevisionKind.APPLY
            else before.revert(edit.edit.id for edit in edits)
        )
        made = self._on_top(head, kind, before, after, request_id)
        return replace(made, edits=tuple(edit.reference for edit in edits))

    def next_promotion(self, source: str, target: str = MAIN, *, request_id: str = "") -> Revision:
        """The revision that promotes one branch to another; not stored yet."""
        head, theirs = (self.ledger.head(MODEL, BranchName(name)) for name in (target, source))
        before, after = (self.ledger.applied(MODEL, revision.id) for revision in (head, theirs))
        return replace(
            self._on_top(head, RevisionKind.PROMOTE, before, after, request_id),
            edits=tuple(self._reference(one) for one in after.without(before)),
            removed=tuple(self._reference(one) for one in before.without(after)),
            source=theirs.id,
            weights_digest=theirs.weights_digest,
        )

    def next_policy(self, branch: str = MAIN, *, protected: bool = True) -> Revision:
        """The revision that protects a branch, or no longer does; not stored yet."""
        head = self.ledger.head(MODEL, BranchName(branch))
        applied = self.ledger.applied(MODEL, head.id)
        made = self._on_top(head, RevisionKind.POLICY, applied, applied, "")
        return replace(made, protected=protected, weights_digest=head.weights_digest)

    def first_revision(self, branch: str, start: str = MAIN, *, request_id: str = "") -> Revision:
        """The first revision of a branch that starts at ``start``; not stored yet."""
        parent = self.ledger.find_revision(MODEL, start)
        applied = self.ledger.applied(MODEL, parent.id)
        made = self._on_top(parent, RevisionKind.BRANCH, applied, applied, request_id)
        return replace(
            made,
            branch=BranchName(branch),
            sequence=0,
            protected=False,
            weights_digest=parent.weights_digest,
        )

    def _on_top(
        self,
        head: Revision,
        kind: RevisionKind,
        before: AppliedSet,
        after: AppliedSet,
        request_id: str,
    ) -> Revision:
        active = {edit.edit for edit in after.active()}
        hidden = {edit.edit for edit in after.superseded()}
        number = next(self._minutes)
        return replace(
            head,
            sequence=head.sequence + 1,
            parent=head.id,
            kind=kind,
            edits=(),
            superseded=tuple(e.edit for e in before.active() if e.edit in hidden),
            restored=tuple(e.edit for e in before.superseded() if e.edit in active),
            active_count=len(active),
            active_set_digest=after.digest(model=CHECKPOINT, composition=Composition.GUARDED),
            weights_digest=canonical.digest(repr(after.active()).encode()),
            actor="ana",
            reason="it was moved",
            ticket="T-1",
            request_id=RequestId(request_id or f"request-{number}"),
            request_digest=canonical.digest(repr((kind, before, after)).encode()),
            created_at=NOON + timedelta(minutes=number),
            source=NO_SOURCE,
            removed=(),
        )

    def _reference(self, one: AppliedEdit) -> EditReference:
        edit, report = self.ledger.edit(one.edit), self.ledger.latest_report(one.edit)
        return Stored(edit=edit, report=report).reference

    def apply(self, *edits: Stored, branch: str = MAIN) -> Revision:
        """Apply edits to a branch."""
        return self.ledger.append(self.next_revision(RevisionKind.APPLY, *edits, branch=branch))

    def revert(self, *edits: Stored, branch: str = MAIN) -> Revision:
        """Revert edits on a branch."""
        return self.ledger.append(self.next_revision(RevisionKind.REVERT, *edits, branch=branch))

    def begin(self, branch: str, start: str = MAIN) -> Revision:
        """Begin a branch."""
        return self.ledger.append(self.first_revision(branch, start))

    def promote(self, source: str, target: str = MAIN) -> Revision:
        """Promote a branch to another."""
        return self.ledger.append(self.next_promotion(source, target))

    def protect(self, branch: str = MAIN, *, protected: bool = True) -> Revision:
        """Protect a branch, or no longer."""
        return self.ledger.append(self.next_policy(branch, protected=protected))

    def head(self) -> RevisionId:
        """Main's head."""
        return self.ledger.head(MODEL, MAIN).id


def applied(chronicler: Chronicler, reference: str) -> list[EditId]:
    """What a branch or revision has applied, oldest first."""
    revision = chronicler.ledger.find_revision(MODEL, reference)
    return [one.edit for one in chronicler.ledger.applied(MODEL, revision.id).applied]


def ids(*stored: Stored) -> list[EditId]:
    """The ids of stored edits, in the order given."""
    return [one.edit.id for one in stored]


def clean(chronicler: Chronicler) -> bool:
    """Whether an audit finds nothing."""
    return chronicler.ledger.audit(MODEL).findings == ()
