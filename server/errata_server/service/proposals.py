"""Proposing, verifying and approving edits: everything up to the door of production.

Invariants: a malformed request is refused at once and leaves nothing behind; the artifact
is stored before the edit that names it; an edit is stored together with its first report;
a failed report is stored like any other, as evidence.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from errata_server import telemetry
from errata_server.domain.answers import begins_with
from errata_server.domain.checks import Report
from errata_server.domain.edits import AppliedEdit, AppliedSet, Approval, Edit, EditState
from errata_server.domain.errors import ErrataError, NotCalibratedError
from errata_server.domain.evaluation import evaluate
from errata_server.domain.facts import CheckPrompt, EditRequest
from errata_server.domain.generation import GenerationOptions
from errata_server.domain.held import held_prompts
from errata_server.domain.ids import MAIN, BranchName, EditId, ModelId, ReportId, new_edit_id
from errata_server.domain.measurements import PatchInspection, VerificationPlan
from errata_server.domain.operations import Operation, OperationKind, ReportProgress
from errata_server.domain.patches import Patch, ServedWeights
from errata_server.domain.signatures import ProposerSignature, Statement
from errata_server.domain.suites import require_suite_size
from errata_server.ledger.ledger import Ledger
from errata_server.service.calls import Call
from errata_server.service.edits import EditReader
from errata_server.service.operations import Operations
from errata_server.service.plans import Holds, Planner
from errata_server.service.ports import Engine
from errata_server.service.serving import Serving
from errata_server.service.suites import Suites
from errata_server.service.views import EditView, Page, Pinned
from errata_server.signing import TrustedKeys

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
    suites: Suites
    now: Callable[[], datetime]
    keys: TrustedKeys = field(default_factory=TrustedKeys)
    """Whose signatures proposals may bear."""

    def propose(
        self,
        request: EditRequest,
        call: Call,
        *,
        validate_only: bool = False,
        signature: ProposerSignature | None = None,
    ) -> Operation:
        """Compute a patch, check it and store both; the operation's result names them.

        Args:
            request: What the model is to believe.
            call: Who asks; a repeated request id gives the earlier operation.
            validate_only: Compute and store no edit; the operation ends well if the base
                model does not give every target already, and its result is empty.
            signature: The proposer's own, where there is one.

        Raises:
            RequestIdReusedError: the request id was used for something else.
            (and everything `require_form` and `require_signature` raise)
        """
        self.require_form(request)
        self.require_signature(request, call, signature)
        work = self._validate if validate_only else partial(self._propose, signature)
        method = "validate" if validate_only else "propose"
        signed = {"signature": asdict(signature)} if signature else {}
        return self.operations.submit(
            OperationKind.PROPOSE,
            actor=call.actor,
            request_id=call.request_id,
            request_digest=call.digest(method, request=request.to_json(), **signed),
            work=lambda progress: work(request, call, progress),
        )

    def require_form(self, request: EditRequest) -> None:
        """Do nothing if ``request`` is one this model can take, as far as its words tell.

        Raises:
            InvalidInputError: its suite has too many prompts, or one twice.
            (and everything `Engine.validate` raises)
        """
        self._require_suite(request.suite)
        self.engine.validate(request)

    def require_signature(
        self, request: EditRequest, call: Call, signature: ProposerSignature | None
    ) -> None:
        """Do nothing if ``request`` may be taken as it is signed.

        Raises:
            SignatureRequiredError: it is not signed and must be.
            UntrustedKeyError: its key is not trusted, or no longer.
            InvalidSignatureError: the signature is not one over what it asks for.
        """
        statement = Statement(
            model=self.model,
            base=self.engine.describe().digest,
            proposer=call.actor,
            request=request,
            request_id=call.request_id,
        )
        self.keys.require(signature, statement)

    def verify(
        self, edit_id: EditId, call: Call, *, suite: tuple[CheckPrompt, ...] = ()
    ) -> Operation:
        """Check an edit again on top of main's head; the report becomes its latest.

        Args:
            edit_id: The edit.
            call: Who asks; a repeated request id gives the earlier operation.
            suite: Regression prompts beside the edit's own and the stored suites.

        Raises:
            EditNotFoundError: there is no such edit.
            InvalidInputError: the suite has too many prompts, or one twice.
            PromptTooLongError: a prompt of it does not fit the context.
            RequestIdReusedError: the request id was used for something else.
        """
        edit = self.edits.stored(edit_id)
        self._require_suite(suite)
        content = {"suite": [asdict(prompt) for prompt in suite]} if suite else {}
        return self.operations.submit(
            OperationKind.VERIFY,
            actor=call.actor,
            request_id=call.request_id,
            request_digest=call.digest("verify", edit=edit_id, **content),
            work=lambda progress: self._verify(edit, suite, progress),
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

    def get(self, edit_id: EditId, branch: BranchName = MAIN) -> EditView:
        """An edit with its state on ``branch``, latest report and approvals.

        Raises:
            EditNotFoundError: there is no such edit.
            BranchNotFoundError: there is no such branch.
        """
        return self.edits.view(edit_id, branch)

    def several(self, edit_ids: Sequence[EditId]) -> tuple[EditView, ...]:
        """Edits with their states on main, latest reports and approvals.

        Raises:
            EditNotFoundError: one of them is not there.
        """
        return self.edits.views(edit_ids)

    def list(
        self,
        branch: BranchName = MAIN,
        *,
        state: EditState | None = None,
        page_size: int = 0,
        page_token: str = "",
    ) -> Page[EditView]:
        """Edits newest first, in one state on ``branch`` where it is given.

        Raises:
            BranchNotFoundError: there is no such branch.
            InvalidInputError: the page size is negative or the token is none of ours.
        """
        return self.edits.page(branch, state=state, page_size=page_size, page_token=page_token)

    def report(self, report_id: ReportId) -> Report:
        """A report, be it the latest of its edit or an earlier one.

        Raises:
            ReportNotFoundError: there is no such report.
        """
        return self.ledger.report(report_id)

    def _require_suite(self, suite: tuple[CheckPrompt, ...]) -> None:
        require_suite_size(suite)
        self.engine.require_room(suite)

    def _validate(
        self, request: EditRequest, _call: Call, progress: ReportProgress
    ) -> dict[str, Any]:
        self.engine.require_change(request, progress=progress)
        return {}

    def _propose(
        self,
        signature: ProposerSignature | None,
        request: EditRequest,
        call: Call,
        progress: ReportProgress,
    ) -> dict[str, Any]:
        held = held_prompts(self.planner.known_facts, request)
        ((_, found),) = self.engine.compute_patches([request], held=[held], progress=progress)
        if isinstance(found, ErrataError):
            raise found
        edit = self.edit_of(request, found, call, new_edit_id())
        edit = replace(edit, signature=signature)
        return {"edit": edit.id, "report": self.store(edit, progress=progress).id}

    def edit_of(self, request: EditRequest, patch: Patch, call: Call, edit_id: EditId) -> Edit:
        """The edit that ``patch`` carries out; the patch is stored, the edit not yet."""
        return Edit(
            id=edit_id,
            model=self.model,
            request=request,
            patch=self.ledger.put_artifact(patch.payload),
            profile=patch.manifest.profile,
            proposer=call.actor,
            created_at=self.now(),
        )

    def store(
        self, edit: Edit, *, batch: "Company | None" = None, progress: ReportProgress
    ) -> Report:
        """Check a new edit and store it with the report.

        Args:
            edit: The edit; its patch is stored.
            batch: What it is proposed with.
            progress: Told of every step.
        """
        report = self._check(edit, progress, batch=batch)
        self.ledger.record_edit(edit, report)
        telemetry.observe_report(report)
        return report

    def rehearse(
        self, edits: Sequence[Edit], *, names: frozenset[str], progress: ReportProgress
    ) -> None:
        """Have asked in shared passes what the checks of ``edits`` will ask one by one.

        Args:
            edits: Their patches are stored.
            names: What all edits of the batch are about.
            progress: Told of every step.
        """
        head = self.serving.refresh()
        trials = [self._trial(edit, ()) for edit in edits]
        asked: list[CheckPrompt] = []
        for edit, trial in zip(edits, trials, strict=True):
            self._plan(edit, trial, partial(_noted, asked), names)
        self._hold_on_base(progress, list(dict.fromkeys(asked)))
        holds = partial(self._hold_on_base, progress)
        plans = [
            self._plan(edit, trial, holds, names) for edit, trial in zip(edits, trials, strict=True)
        ]
        added = [AppliedEdit.of(edit) for edit in edits if edit.id not in head.applied]
        together = head.applied.apply(added)
        weights = self.serving.prepare(together, head.revision.composition)
        own = [name for edit in edits for name in edit.request.names]
        self.engine.rehearse(plans, (head.weights, weights), names=own, progress=progress)

    def _verify(
        self, edit: Edit, suite: tuple[CheckPrompt, ...], progress: ReportProgress
    ) -> dict[str, Any]:
        report = self._check(edit, progress, suite)
        self.ledger.record_report(report)
        telemetry.observe_report(report)
        return {"edit": edit.id, "report": report.id}

    def _check(
        self,
        edit: Edit,
        progress: ReportProgress,
        suite: tuple[CheckPrompt, ...] = (),
        *,
        batch: "Company | None" = None,
    ) -> Report:
        """Measure ``edit`` on top of main's head and hold it against the policy."""
        with telemetry.stage("checks"):
            batch = batch or Company()
            trial = self._trial(edit, batch.live)
            plan = self._plan(edit, trial, partial(self._hold_on_base, progress), batch.names)
            plan = replace(plan, sources={**plan.sources, "batch": batch.near})
            inspection = self._inspect(edit, trial, plan)
            plan = self._with_live_facts(edit, trial, plan, inspection, batch.live)
            given = [("given with the edit", edit.request.suite), ("given for this check", suite)]
            plan = self.planner.with_suites(plan, given, self.suites.current())
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
            suites=plan.suites,
        )

    def _trial(self, edit: Edit, beside: Sequence[Edit]) -> "_Trial":
        """What main serves, without and with ``edit`` as its newest."""
        head = self.serving.refresh()
        before = head.applied
        weights = head.weights
        live = edit.id in before
        others = [other for other in beside if other.id not in before and other.id != edit.id]
        if others or live:
            before = before.apply(map(AppliedEdit.of, others))
            before = before.revert([edit.id]) if live else before
            weights = self.serving.prepare(before, head.revision.composition)
        after = before.apply([AppliedEdit.of(edit)])
        return _Trial(head=head, before=before, before_weights=weights, after=after)

    def _plan(
        self, edit: Edit, trial: "_Trial", holds: Holds, changing: frozenset[str]
    ) -> VerificationPlan:
        profile = self.engine.profile
        if profile is None:
            raise NotCalibratedError("the model has no profile; run `errata-server calibrate`")
        plan = self.planner.plan(
            edit.request,
            prefixes=profile.prefixes,
            holds=holds,
            live_subjects=frozenset(self._live_names(trial)),
            changing=changing,
        )
        hidden, _ = trial.after.shifted_since(trial.before, [edit.request.subject])
        return replace(plan, sources={**plan.sources, "supersedes": ", ".join(hidden)})

    def _live_names(self, trial: "_Trial") -> Iterator[str]:
        """Subjects of the edits that are live without the one on trial, by all their names."""
        for live in trial.before.active():
            yield from self.serving.artifacts.manifest(live.patch).names

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
        beside: Sequence[Edit],
    ) -> VerificationPlan:
        mates = {mate.id: mate for mate in beside}
        live = [other for other, _ in trial.others(edit.id)]
        chosen = self.planner.choose_live(edit.request, live, inspection.conflicts)
        rows = [mates.get(one) or self.ledger.edit(one) for one in chosen]
        return self.planner.with_live_facts(plan, rows, inspection.conflicts)

    def _hold_on_base(
        self, progress: ReportProgress, prompts: Sequence[CheckPrompt]
    ) -> tuple[bool, ...]:
        """Which of ``prompts`` the untouched model answers as expected."""
        options = GenerationOptions(max_new_tokens=ANSWER_TOKENS)
        said = self.engine.continue_prompts(
            [prompt.prompt for prompt in prompts],
            options,
            self.serving.base().weights,
            progress=progress,
        )
        pairs = zip(said, prompts, strict=True)
        return tuple(begins_with(answer, prompt.expected) for answer, prompt in pairs)


def _noted(asked: list[CheckPrompt], prompts: Sequence[CheckPrompt]) -> tuple[bool, ...]:
    """Note what a plan asks first, as if the base model answered all of it right."""
    asked += prompts
    return (True,) * len(prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """What an edit is proposed with."""

    live: tuple[Edit, ...] = ()
    """Edits that count as live too, on top of main's; they need not be stored yet."""

    near: str = ""
    """Subjects whose keys lie close, in words for the report."""

    names: frozenset[str] = frozenset()
    """What all edits of the batch are about, by all their names."""


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
