"""The part of the audit that looks at rows on their own: all but revisions and branches.

Invariant: what it learns of the rows that are in order is `Evidence`, which the history is
held against.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, select

from errata_server.domain.checks import Report
from errata_server.domain.edits import AppliedEdit, Edit
from errata_server.domain.ids import Digest, EditId, ModelId
from errata_server.domain.profiles import Profile
from errata_server.domain.suites import SuiteReference, SuiteVersion
from errata_server.ledger import tables
from errata_server.ledger.artifacts import artifact_row
from errata_server.ledger.bodies import StoredApproval, StoredModel
from errata_server.ledger.edits import approval_row, edit_row, report_row
from errata_server.ledger.findings import Findings
from errata_server.ledger.models import model_row, profile_row
from errata_server.ledger.suites import suite_row
from errata_server.ledger.tables import RowsQuery, StoredRow

ROWS_AT_ONCE: Final = 200
"""Rows fetched together, so that an audit fits in memory."""

ARTIFACTS_AT_ONCE: Final = 16
"""Fewer, as an artifact may have megabytes."""


@dataclass(slots=True)
class Evidence:
    """Rows that are in order, as far as others refer to them."""

    model_digest: Digest | None = None
    artifacts: set[str] = field(default_factory=set)
    profiles: set[str] = field(default_factory=set)
    edits: dict[str, AppliedEdit] = field(default_factory=dict)
    edit_digests: dict[str, str] = field(default_factory=dict)
    report_edits: dict[str, str] = field(default_factory=dict)
    """Each report's edit."""

    measured_against: dict[str, str] = field(default_factory=dict)
    """Each report's revision."""

    judged_by: dict[str, tuple[SuiteReference, ...]] = field(default_factory=dict)
    """Each report's stored suites."""

    proposers: dict[str, str] = field(default_factory=dict)
    """Who proposed each edit."""

    approvers: dict[str, set[str]] = field(default_factory=dict)
    """Who approved of an edit as each report shows it."""


class RecordAudit:
    """One model's models, profiles, edits, reports and approvals, and all artifacts."""

    def __init__(self, connection: Connection, model: ModelId, findings: Findings) -> None:
        self._connection = connection
        self._model = model
        self._findings = findings
        self.evidence = Evidence()

    def _rows(self, statement: RowsQuery, at_once: int = ROWS_AT_ONCE) -> Iterator[StoredRow]:
        streamed = statement.execution_options(yield_per=at_once)
        return iter(self._connection.execute(streamed))

    def check_model(self) -> bool:
        """Check the model's row; whether there is one."""
        name = model_row(self._model)
        statement = select(tables.models).where(tables.models.c.id == self._model)
        row = self._connection.execute(statement).one_or_none()
        if row is None:
            self._findings.add(name, "missing")
            return False
        self.evidence.model_digest = Digest(row.digest)
        stored = self._findings.read(name, row.body, row.body_digest, StoredModel.from_body)
        if stored is not None:
            self._findings.compare(
                name,
                {
                    "id": (row.id, stored.model),
                    "digest": (row.digest, stored.description.digest),
                },
            )
        return True

    def check_artifacts(self) -> int:
        """Hash every artifact again; how many there are."""
        for row in self._rows(select(tables.artifacts), ARTIFACTS_AT_ONCE):
            self.evidence.artifacts.add(row.digest)
            self._findings.read(artifact_row(row.digest), row.payload, row.digest, bytes)
        return len(self.evidence.artifacts)

    def check_profiles(self) -> None:
        """Check the model's profiles."""
        columns = tables.profiles.c
        statement = select(tables.profiles).where(columns.model == self._model)
        expected = 0
        for row in self._rows(statement.order_by(columns.position)):
            expected = self._findings.number("profiles", row.position, expected)
            self.evidence.profiles.add(row.id)
            name = profile_row(row.id)
            profile = self._findings.read(name, row.body, row.id, Profile.from_body)
            if profile is not None and profile.model_digest != self.evidence.model_digest:
                self._findings.add(name, "it was made for another checkpoint than the model's")

    def check_edits(self, objection: Callable[[Edit], str]) -> int:
        """Check the model's edits; how many there are.

        Args:
            objection: What is wrong with a proposer's signature; empty if nothing.
        """
        columns = tables.edits.c
        statement = select(tables.edits).where(columns.model == self._model)
        expected = 0
        signatures: set[str] = set()
        for row in self._rows(statement.order_by(columns.position)):
            expected = self._findings.number("edits", row.position, expected)
            self.evidence.edits[row.id] = AppliedEdit(
                edit=EditId(row.id), subject=row.subject, patch=Digest(row.patch)
            )
            self.evidence.edit_digests[row.id] = row.digest
            edit = self._findings.read(edit_row(row.id), row.body, row.digest, Edit.from_body)
            if edit is not None:
                with self._findings.reading_values(edit_row(row.id)):
                    self._check_edit(row, edit)
                    self._check_signature(edit, objection(edit), signatures)
        return len(self.evidence.edits)

    def _check_edit(self, row: StoredRow, edit: Edit) -> None:
        name = edit_row(row.id)
        self.evidence.proposers[row.id] = edit.proposer
        self._findings.compare(
            name,
            {
                "id": (row.id, edit.id),
                "model": (row.model, edit.model),
                "subject": (row.subject, edit.request.subject),
                "patch": (row.patch, edit.patch),
                "profile": (row.profile, edit.profile),
            },
        )
        if edit.patch not in self.evidence.artifacts:
            self._findings.add(artifact_row(edit.patch), f"missing, though {name} names it")
        if edit.profile not in self.evidence.profiles:
            self._findings.add(profile_row(edit.profile), f"missing, though {name} names it")

    def _check_signature(self, edit: Edit, objection: str, earlier: set[str]) -> None:
        if edit.signature is None:
            return
        if objection:
            self._findings.add(edit_row(edit.id), objection)
        if edit.signature.value in earlier:
            self._findings.add(edit_row(edit.id), "its signature was used for an earlier edit")
        earlier.add(edit.signature.value)

    def check_reports(self) -> int:
        """Check the reports on the model's edits; how many there are."""
        columns = tables.reports.c
        statement = select(tables.reports).where(columns.model == self._model)
        expected = 0
        for row in self._rows(statement.order_by(columns.position)):
            expected = self._findings.number("reports", row.position, expected)
            self.evidence.report_edits[row.id] = row.edit
            report = self._findings.read(report_row(row.id), row.body, row.id, Report.from_body)
            if report is not None:
                with self._findings.reading_values(report_row(row.id)):
                    self._check_report(row, report)
        for edit in self.evidence.edits.keys() - set(self.evidence.report_edits.values()):
            self._findings.add(edit_row(edit), "it has no report")
        return len(self.evidence.report_edits)

    def _check_report(self, row: StoredRow, report: Report) -> None:
        name = report_row(row.id)
        self.evidence.measured_against[row.id] = report.against
        self.evidence.judged_by[row.id] = report.suites
        self._findings.compare(
            name, {"model": (row.model, report.model), "edit": (row.edit, report.edit)}
        )
        edit = self.evidence.edits.get(report.edit)
        if edit is None:
            self._findings.add(edit_row(report.edit), f"missing, though {name} is about it")
        elif edit.patch != report.patch:
            self._findings.add(name, f"it measured another patch than that of edit {edit.edit}")

    def check_approvals(self) -> None:
        """Check the approvals of the model's edits."""
        columns = tables.approvals.c
        statement = select(tables.approvals).where(columns.model == self._model)
        expected = 0
        for row in self._rows(statement.order_by(columns.position)):
            expected = self._findings.number("approvals", row.position, expected)
            name = approval_row(row.edit, row.position)
            stored = self._findings.read(name, row.body, row.digest, StoredApproval.from_body)
            if stored is not None:
                with self._findings.reading_values(name):
                    self._check_approval(row, stored)

    def _check_approval(self, row: StoredRow, stored: StoredApproval) -> None:
        name, given = approval_row(row.edit, row.position), stored.approval
        self.evidence.approvers.setdefault(given.report, set()).add(given.actor)
        self._findings.compare(
            name,
            {
                "edit": (row.edit, given.edit),
                "report": (row.report, given.report),
                "request_id": (row.request_id, stored.request_id),
            },
        )
        if self.evidence.report_edits.get(given.report) != given.edit:
            self._findings.add(name, "the report it rests on is missing or another edit's")

    def check_suites(self) -> None:
        """Check the model's suites, and that every report was judged by stored ones."""
        columns = tables.suites.c
        statement = select(tables.suites).where(columns.model == self._model)
        expected, stored = 0, set()
        latest: Counter[str] = Counter()
        for row in self._rows(statement.order_by(columns.position)):
            expected = self._findings.number("suites", row.position, expected)
            name = suite_row(row.name, row.version)
            latest[row.name] += 1
            if row.version != latest[row.name]:
                self._findings.add(name, f"its version should be {latest[row.name]}")
            version = self._findings.read(name, row.body, row.digest, SuiteVersion.from_body)
            if version is not None:
                with self._findings.reading_values(name):
                    self._check_suite(row, version)
                    stored.add(version.reference)
        for report, references in self.evidence.judged_by.items():
            with self._findings.reading_values(report_row(report)):
                for reference in set(references) - stored:
                    self._findings.add(
                        report_row(report), f"the suite {reference} it was judged by is missing"
                    )

    def _check_suite(self, row: StoredRow, version: SuiteVersion) -> None:
        name = suite_row(row.name, row.version)
        self._findings.compare(
            name,
            {
                "model": (row.model, version.model),
                "name": (row.name, version.name),
                "version": (row.version, version.version),
                "artifact": (row.artifact, version.artifact),
                "request_id": (row.request_id, version.request_id),
            },
        )
        if version.artifact not in self.evidence.artifacts:
            self._findings.add(artifact_row(version.artifact), f"missing, though {name} names it")

    def check_measured_revisions(self, revisions: Collection[str]) -> None:
        """Check that every report was measured on top of a revision that is there."""
        for report, revision in self.evidence.measured_against.items():
            with self._findings.reading_values(report_row(report)):
                if revision not in revisions:
                    self._findings.add(
                        report_row(report), "the revision it was measured against is missing"
                    )
