"""Proposing, verifying and approving edits: everything up to the door of production.

Invariants: a malformed request is refused at once and leaves nothing behind; the artifact
is stored before the edit that names it; an edit is stored together with its first report;
a failed report is stored like any other, as evidence.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from errata_server import telemetry
from errata_server.domain.answers import begins_with
from errata_server.domain.checks import Report
from errata_server.domain.edits import AppliedEdit, AppliedSet, Approval, Edit, EditState
from errata_server.domain.errors import NotCalibratedError
from errata_server.domain.evaluation import evaluate
from errata_server.domain.facts import CheckPrompt, EditRequest
from errata_server.domain.generation import GenerationOptions
from errata_server.domain.ids import EditId, ModelId, OperationId, ReportId, new_edit_id
from errata_server.domain.measurements import PatchInspection, VerificationPlan
from errata_server.domain.operations import (
    Operation,
    OperationKind,
    OperationState,
    Progress,
    ReportProgress,
)
from errata_server.domain.patches import ServedWeights
from errata_server.ledger.ledger import Ledger
from errata_server.service.calls import Call
from errata_server.service.edits import EditReader
from errata_server.service.operations import Operations
from errata_server.service.plans import Planner
from errata_server.service.ports import Engine
from errata_server.service.serving import Serving
from errata_server.service.views import EditView, Page, Pinned

ANSWER_TOKENS = 12
"""Tokens the base model gets to answer a neighbour's prompt."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposals:
    """Edits from the request to the stored report."""

    engine: Engine
    ledger: Ledger
    model: ModelId
    serving: Serving
    operations: Operations
    edits: EditReader
    planner: Planner
    now: Callable[[], datetime]

    def propose(
        self, request: EditRequest, call: Call, *, validate_only: bool = False
    ) -> Operation:
        """Compute a patch, check it and store both; the operation's result names them.

        Args:
            request: What the model is to believe.
            call: Who asks; a repeated request id gives the earlier operation.
            validate_only: Do nothing but validate; the operation returned is done and is
                stored nowhere.

        Raises:
            RequestIdReusedError: the request id was used for something else.
            (and everything `Engine.validate` raises)
        """
        self.engine.validate(request)
        if validate_only:
            return self._validated(call, request)
        return self.operations.submit(
            OperationKind.PROPOSE,
            actor=call.actor,
            request_id=call.request_id,
            request_digest=call.digest("propose", request=request.to_json()),
            work=lambda progress: self._propose(request, call, progress),
        )

    def verify(self, edit_id: EditId, call: Call) -> Operation:
        """Check an edit again on top of main's head; the report becomes its latest.

        Raises:
            EditNotFoundError: there is no such edit.
            RequestIdReusedError: the request id was used for something else.
        """
        edit = self.edits.stored(edit_id)
        return self.operations.submit(
            OperationKind.VERIFY,
            actor=call.actor,
            request_id=call.request_id,
            request_digest=call.digest("verify", edit=edit_id),
            work=lambda progress: self._verify(edit, progress),
        )

    def approve(self, edit_id: EditId, comment: str, call: Call) -> EditView:
        """Record that ``call.actor`` stands by the edit as its latest report shows it.

        Raises:
            EditNotFoundError: there is no such edit.
            VerificationFailedError: that report has failed checks.
            RequestIdReusedError: the request id was used for another approval.
        """
        edit = self.edits.stored(edit_id)
        report = self.ledger.latest_report(edit.id)
        report.raise_for_failures()
        approval = Approval(
            edit=edit.id,
            report=report.id,
            actor=call.actor,
            comment=comment,
            created_at=self.now(),
        )
        self.ledger.record_approval(approval, call.request_id)
        return self.edits.view(edit_id)

    def get(self, edit_id: EditId) -> EditView:
        """An edit with its state, latest report and approvals.

        Raises:
            EditNotFoundError: there is no such edit.
        """
        return self.edits.view(edit_id)

    def list(
        self, *, state: EditState | None = None, page_size: int = 0, page_token: str = ""
    ) -> Page[EditView]:
        """Edits newest first, in one state where it is given.

        Raises:
            InvalidInputError: the page size is negative or the token is none of ours.
        """
        return self.edits.page(state=state, page_size=page_size, page_token=page_token)

    def report(self, report_id: ReportId) -> Report:
        """A report, be it the latest of its edit or an earlier one.

        Raises:
            ReportNotFoundError: there is no such report.
        """
        return self.ledger.report(report_id)

    def _validated(self, call: Call, request: EditRequest) -> Operation:
        moment = self.now()
        return Operation(
            id=OperationId("validated"),
            model=self.model,
            kind=OperationKind.PROPOSE,
            state=OperationState.SUCCEEDED,
            progress=Progress(stage="validated", done=1, total=1),
            request_id=call.request_id,
            request_digest=call.digest("propose", request=request.to_json()),
            actor=call.actor,
            created_at=moment,
            finished_at=moment,
        )

    def _propose(
        self, request: EditRequest, call: Call, progress: ReportProgress
    ) -> dict[str, Any]:
        patch = self.engine.compute_patch(request, progress=progress)
        digest = self.ledger.put_artifact(patch.payload)
        edit = Edit(
            id=new_edit_id(),
            model=self.model,
            request=request,
            patch=digest,
            profile=patch.manifest.profile,
            proposer=call.actor,
            created_at=self.now(),
        )
        report = self._check(edit, progress)
        self.ledger.record_edit(edit, report)
        telemetry.observe_report(report)
        return {"edit": edit.id, "report": report.id}

    def _verify(self, edit: Edit, progress: ReportProgress) -> dict[str, Any]:
        report = self._check(edit, progress)
        self.ledger.record_report(report)
        telemetry.observe_report(report)
        return {"edit": edit.id, "report": report.id}

    def _check(self, edit: Edit, progress: ReportProgress) -> Report:
        """Measure ``edit`` on top of main's head and hold it against the policy."""
        with telemetry.stage("checks"):
            trial = self._trial(edit)
            plan = self._plan(edit, trial)
            inspection = self._inspect(edit, trial, plan)
            plan = self._with_live_facts(edit, trial, plan, inspection)
            measurements = None
            if inspection.finite:
                after = self.serving.prepare(trial.after, trial.head.revision.composition)
                measurements = self.engine.measure(
                    plan, before=trial.before_weights, after=after, progress=progress
                )
            manifest = self.serving.artifacts.manifest(edit.patch)
            policy = replace(self.planner.policy, composition=trial.head.revision.composition)
            checks = evaluate(manifest, inspection, measurements, plan.sources, policy)
        return Report(
            model=self.model,
            edit=edit.id,
            patch=edit.patch,
            profile=edit.profile,
            against=trial.head.revision.id,
            composition=policy.composition,
            policy=policy.digest,
            checks=checks,
            created_at=self.now(),
        )

    def _trial(self, edit: Edit) -> "_Trial":
        """What main serves, without and with ``edit`` as its newest."""
        head = self.serving.refresh()
        before = head.applied
        weights = head.weights
        if edit.id in {applied.edit for applied in before.applied}:
            before = before.revert([edit.id])
            weights = self.serving.prepare(before, head.revision.composition)
        mine = AppliedEdit(edit=edit.id, subject=edit.request.subject, patch=edit.patch)
        return _Trial(head=head, before=before, before_weights=weights, after=before.apply([mine]))

    def _plan(self, edit: Edit, trial: "_Trial") -> VerificationPlan:
        profile = self.engine.profile
        if profile is None:
            raise NotCalibratedError("the model has no profile; run `errata-server calibrate`")
        plan = self.planner.plan(
            edit.request,
            prefixes=profile.prefixes,
            holds=self._holds_on_base,
            live_subjects=frozenset(live.subject for live in trial.before.active()),
        )
        hidden = [live.edit for live in trial.before.active() if live not in trial.after.active()]
        return replace(plan, sources={**plan.sources, "supersedes": ", ".join(hidden)})

    def _inspect(self, edit: Edit, trial: "_Trial", plan: VerificationPlan) -> PatchInspection:
        return self.engine.inspect_patch(
            edit.patch,
            self.serving.artifacts.load,
            live=trial.others(edit.id),
            neighbours=[neighbour.prompt for neighbour in plan.neighbours],
        )

    def _with_live_facts(
        self,
        edit: Edit,
        trial: "_Trial",
        plan: VerificationPlan,
        inspection: PatchInspection,
    ) -> VerificationPlan:
        live = [other for other, _ in trial.others(edit.id)]
        chosen = self.planner.choose_live(edit.request, live, inspection.conflicts)
        rows = [self.ledger.edit(chosen_id) for chosen_id in chosen]
        return self.planner.with_live_facts(plan, rows, inspection.conflicts)

    def _holds_on_base(self, prompt: CheckPrompt) -> bool:
        """Whether the untouched model answers ``prompt`` as expected."""
        options = GenerationOptions(max_new_tokens=ANSWER_TOKENS)
        answer = ""
        for chunk in self.engine.generate(prompt.prompt, options, self.serving.base().weights):
            answer += chunk.text
            if len(answer.lstrip()) > len(prompt.expected):
                break  # enough to tell; leaving drops the iterator, which stops the model
        return begins_with(answer, prompt.expected)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Trial:
    """An edit held against main's head without being applied."""

    head: Pinned
    before: AppliedSet
    before_weights: ServedWeights
    after: AppliedSet

    def others(self, edit: EditId) -> "list[tuple[EditId, Any]]":
        """The edits that would be live beside ``edit``, with their patches."""
        active = self.after.active()
        return [(other.edit, other.patch) for other in active if other.edit != edit]
