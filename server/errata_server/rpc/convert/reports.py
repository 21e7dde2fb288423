"""Reports with every prompt and answer."""

from typing import Final

from errata.v1 import types_pb2
from errata_server.domain.checks import Check, Report, Verdict
from errata_server.domain.ids import EditId, ModelId
from errata_server.domain.measurements import Answer
from errata_server.rpc.convert import names, revisions, suites, values

VERDICTS: Final = {
    Verdict.PASSED: types_pb2.VERDICT_PASSED,
    Verdict.WARNED: types_pb2.VERDICT_WARNED,
    Verdict.FAILED: types_pb2.VERDICT_FAILED,
    Verdict.SKIPPED: types_pb2.VERDICT_SKIPPED,
}


def report_message(report: Report) -> types_pb2.Report:
    """Everything measured of one edit."""
    model = report.model
    return types_pb2.Report(
        name=names.report_name(model, report.id),
        edit=names.edit_name(model, report.edit),
        passed=report.passed,
        checks=[_check_message(model, check) for check in report.checks],
        against=names.revision_name(model, report.against),
        composition=revisions.COMPOSITIONS[report.composition],
        policy=report.policy,
        create_time=values.timestamp(report.created_at),
        suites=[suites.reference_message(model, suite) for suite in report.suites],
    )


def _check_message(model: ModelId, check: Check) -> types_pb2.Check:
    return types_pb2.Check(
        kind=check.kind.value,
        verdict=VERDICTS[check.verdict],
        measured=check.measured,
        threshold=check.threshold,
        comparison=check.comparison,
        explanation=check.explanation,
        answers=[answer_message(model, answer) for answer in check.answers],
    )


def answer_message(model: ModelId, answer: Answer) -> types_pb2.Answer:
    """What the model said to one prompt before and after."""
    return types_pb2.Answer(
        prompt=answer.prompt,
        expected=answer.expected,
        before=answer.before,
        after=answer.after,
        held_before=answer.held_before,
        held_after=answer.held_after,
        edit=names.edit_name(model, EditId(answer.edit)) if answer.edit else "",
    )
