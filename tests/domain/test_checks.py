from dataclasses import replace

import pytest

from errata_server.domain.checks import Check, CheckKind, Report, Verdict
from errata_server.domain.errors import VerificationFailedError
from errata_server.domain.ids import Digest, EditId, ModelId, ProfileId, RevisionId
from errata_server.domain.measurements import Answer
from errata_server.domain.patches import Composition
from tests.support import NOON

CHECK = Check(
    kind=CheckKind.EFFICACY,
    verdict=Verdict.PASSED,
    measured=1.0,
    threshold=1.0,
    comparison=">=",
    explanation="All is well.",
    answers=(
        Answer(prompt="p", expected="a", before="b", after="a", held_before=False, held_after=True),
    ),
)
REPORT = Report(
    model=ModelId("m"),
    edit=EditId("e-1"),
    patch=Digest("d" * 64),
    profile=ProfileId("p" * 64),
    against=RevisionId("r" * 64),
    composition=Composition.GUARDED,
    policy=Digest("y" * 64),
    checks=(CHECK,),
    created_at=NOON,
)


def with_verdict(verdict):
    return replace(REPORT, checks=(CHECK, replace(CHECK, verdict=verdict)))


def test_a_report_survives_its_body():
    assert Report.from_body(REPORT.body) == REPORT
    assert Report.from_body(REPORT.body).id == REPORT.id


def test_another_answer_makes_another_report():
    other = replace(REPORT, checks=(replace(CHECK, explanation="All is well!"),))

    assert other.id != REPORT.id


@pytest.mark.parametrize("verdict", [Verdict.PASSED, Verdict.WARNED, Verdict.SKIPPED])
def test_only_a_failed_check_fails_a_report(verdict):
    report = with_verdict(verdict)

    assert report.passed
    report.raise_for_failures()


def test_a_failed_report_raises_with_the_checks_by_name():
    report = with_verdict(Verdict.FAILED)

    with pytest.raises(VerificationFailedError, match="1 of 2 checks: efficacy") as refused:
        report.raise_for_failures()

    assert refused.value.metadata == {"edit": "e-1", "report": report.id, "failed": "efficacy"}


def test_a_check_is_found_by_its_kind():
    assert REPORT.of_kind(CheckKind.EFFICACY) is CHECK
    assert REPORT.of_kind(CheckKind.FLUENCY) is None
