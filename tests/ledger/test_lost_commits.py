"""A commit whose reply is lost: every method that writes learns by its ids what became of it."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from errata_server.domain import canonical
from errata_server.domain.edits import Approval
from errata_server.domain.errors import LedgerUnavailableError, OperationNotFoundError
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.ids import ModelId, OperationId, RequestId
from errata_server.domain.operations import OperationState
from errata_server.domain.revisions import RevisionKind
from errata_server.domain.suites import suite_name
from errata_server.ledger.database import SETTLING_PAUSES, Database
from errata_server.ledger.ledger import Ledger
from errata_server.ledger.suites import NewSuite
from tests.support import MODEL, NOON
from tests.support.databases import POSTGRESQL_ONLY, row_count
from tests.support.histories import Chronicler, description, genesis, operation, profile
from tests.support.lossy_proxy import LossyProxy

SECOND = ModelId("second")
LATER = NOON + timedelta(minutes=5)
DIRECTIONS = pytest.mark.parametrize("happened", [True, False], ids=["reply lost", "commit lost"])
ATTEMPTS = len(SETTLING_PAUSES) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A call that writes, what it answers, and how many rows there are then."""

    call: Callable[[Ledger], Any]
    answer: Any
    table: str
    rows: int


def register(chronicler: Chronicler) -> Mutation:
    first = genesis(SECOND)
    call = partial(register_second, description=description(), first=first)
    return Mutation(call=call, answer=None, table="models", rows=2)


def register_second(ledger, *, description, first):
    return ledger.register_model(SECOND, description, genesis=first)


def put_profile(chronicler: Chronicler) -> Mutation:
    return Mutation(
        call=lambda ledger: ledger.put_profile(MODEL, profile(5)),
        answer=None,
        table="profiles",
        rows=2,
    )


def put_artifact(chronicler: Chronicler) -> Mutation:
    digest = canonical.digest(b"another")
    return Mutation(
        call=lambda ledger: ledger.put_artifact(b"another"),
        answer=digest,
        table="artifacts",
        rows=1,
    )


def record_edit(chronicler: Chronicler) -> Mutation:
    edit = chronicler.new_edit()
    report = chronicler.new_report(edit)
    return Mutation(
        call=lambda ledger: ledger.record_edit(edit, report), answer=None, table="reports", rows=1
    )


def record_report(chronicler: Chronicler) -> Mutation:
    report = chronicler.new_report(chronicler.propose().edit)
    return Mutation(
        call=lambda ledger: ledger.record_report(report), answer=None, table="reports", rows=2
    )


def record_approval(chronicler: Chronicler) -> Mutation:
    stored = chronicler.propose()
    approval = Approval(
        edit=stored.edit.id,
        report=stored.report.id,
        actor="ben",
        comment="seen",
        created_at=NOON,
    )
    return Mutation(
        call=lambda ledger: ledger.record_approval(approval, RequestId("a-1")),
        answer=approval,
        table="approvals",
        rows=1,
    )


def append(chronicler: Chronicler) -> Mutation:
    revision = chronicler.next_revision(RevisionKind.APPLY, chronicler.propose())
    return Mutation(
        call=lambda ledger: ledger.append(revision), answer=revision, table="revisions", rows=2
    )


def add_suite(chronicler: Chronicler) -> Mutation:
    new = NewSuite(
        model=MODEL,
        name=suite_name("capitals"),
        prompts=(CheckPrompt(prompt="one is", expected="Seattle"),),
        actor="ana",
        reason="ours",
        request_id=RequestId("s-1"),
        created_at=NOON,
    )
    return Mutation(
        call=lambda ledger: ledger.add_suite(new).version, answer=1, table="suites", rows=1
    )


def start_operation(chronicler: Chronicler) -> Mutation:
    return Mutation(
        call=lambda ledger: ledger.start_operation(operation()),
        answer=operation(),
        table="operations",
        rows=1,
    )


def finish_operation(chronicler: Chronicler) -> Mutation:
    running = chronicler.ledger.start_operation(operation())
    ended = replace(running, state=OperationState.CANCELLED, finished_at=LATER)
    return Mutation(
        call=lambda ledger: ledger.finish_operation(ended), answer=None, table="operations", rows=1
    )


def forget_operation(chronicler: Chronicler) -> Mutation:
    finish_operation(chronicler).call(chronicler.ledger)
    return Mutation(
        call=lambda ledger: ledger.forget_operation(operation().id),
        answer=None,
        table="operations",
        rows=0,
    )


MUTATIONS = (
    register, put_profile, put_artifact, record_edit, record_report, record_approval, append,
    add_suite, start_operation, finish_operation, forget_operation,
)  # fmt: skip


@contextmanager
def behind_proxy(chronicler, server):
    """A ledger whose connections can be cut, and the proxy that cuts them."""
    with LossyProxy(server.socket) as proxy:
        database = Database(proxy.url(chronicler.ledger._database._engine.url.database))
        try:
            yield Ledger(database), proxy
        finally:
            database.close()


@POSTGRESQL_ONLY
@DIRECTIONS
@pytest.mark.parametrize("prepare", MUTATIONS)
def test_a_lost_commit_is_settled_and_nothing_is_stored_twice(
    chronicler, postgresql_server, ledger_url, prepare, happened
):
    mutation = prepare(chronicler)
    with behind_proxy(chronicler, postgresql_server) as (ledger, proxy):
        ledger.model(MODEL)
        proxy.lose_next_commit(after_it_happened=happened)

        answer = mutation.call(ledger)

    assert proxy.lost == 1
    assert answer == mutation.answer
    assert row_count(ledger_url, mutation.table) == mutation.rows
    assert chronicler.ledger.audit(MODEL).clean


@POSTGRESQL_ONLY
@DIRECTIONS
def test_a_commit_that_cannot_be_settled_is_reported_and_can_be_sent_again(
    chronicler, postgresql_server, happened
):
    revision = append(chronicler).answer
    with behind_proxy(chronicler, postgresql_server) as (ledger, proxy):
        ledger.model(MODEL)
        proxy.lose_next_commit(after_it_happened=happened, times=ATTEMPTS)

        with pytest.raises(LedgerUnavailableError, match="outcome is unknown") as lost:
            ledger.append(revision)
        assert lost.value.metadata["outcome"] == "unknown"
        assert proxy.lost == ATTEMPTS

        assert ledger.append(revision) == revision
    assert chronicler.head() == revision.id


def test_an_operation_that_was_never_there_is_not_forgotten(chronicler):
    with pytest.raises(OperationNotFoundError):
        chronicler.ledger.forget_operation(OperationId("op-none"))


def test_every_method_that_writes_is_settled():
    """A method that opens a transaction by itself would not be."""
    writing = {
        name
        for name, method in vars(Ledger).items()
        if callable(method) and {"write", "writing"} & _names(method.__code__)
    }

    assert writing - {"register_model"} == {made.__name__ for made in MUTATIONS} - {"register"}


def _names(code) -> set[str]:
    inner = (found for found in code.co_consts if isinstance(found, type(code)))
    return {*code.co_names, *(name for found in inner for name in _names(found))}
