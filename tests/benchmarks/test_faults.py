"""The suite `faults` reaches every call, and counts what a fault leaves behind."""

import random

import pytest

from benchmarks.reliability.chronicle import Chronicle
from benchmarks.reliability.databases import Kind, stores
from benchmarks.reliability.faults import (
    FaultTally,
    Prosecutor,
    Trial,
    UseCase,
    branch_cases,
    ledger_cases,
    service_cases,
)
from benchmarks.reliability.in_process import InProcess
from benchmarks.reliability.injection import Fault, Injector
from benchmarks.reliability.writes import author
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from tests.support import edit_request
from tests.support.services import open_services


@pytest.fixture(params=Kind)
def court(request):
    """A prosecutor, and an author on a ledger of its database."""
    with stores([request.param]) as (store,), store.ledger() as url:
        database = Database(url)
        written = author(Ledger(database), Chronicle(draw=random.Random(1)), edits=3)
        with Injector().listening() as injector:
            yield (
                Prosecutor(
                    database=database,
                    model=written.chronicle.model,
                    injector=injector,
                    tally=FaultTally(),
                ),
                written,
            )
        database.close()


def tried(court, case):
    prosecutor, _ = court
    for fault in Fault:
        prosecutor.try_all(case, fault)
    return prosecutor.tally


def test_every_call_of_a_change_is_spoilt_in_every_way_and_nothing_breaks(court):
    prosecutor, written = court
    cases = {case.name: case for case in ledger_cases(Ledger(prosecutor.database), written)}

    tally = tried(court, cases["ledger change"])

    calls = tally.calls["ledger change"]
    assert calls > 6
    assert tally.faults_injected >= len(Fault) * (calls - 2)
    assert not tally.violations


def test_two_transactions_that_claim_to_be_one_are_found_out(court):
    prosecutor, written = court
    ledger = Ledger(prosecutor.database)

    def prepare():
        artifact, edit = written.propose()

        def perform():
            artifact.perform(ledger)
            edit.perform(ledger)

        return Trial(perform=perform)

    tally = tried(court, UseCase(name="careless", prepare=prepare))

    assert tally.violations["careless: half done"] > 0


def test_a_use_case_that_forgets_its_request_is_found_out(court):
    prosecutor, written = court
    ledger = Ledger(prosecutor.database)

    def prepare():
        return Trial(perform=lambda: written.suite().perform(ledger))

    tally = tried(court, UseCase(name="forgetful", prepare=prepare))

    assert tally.violations["forgetful: repeated, it gave something else"] > 0


def test_a_use_case_that_swallows_or_leaks_a_fault_is_found_out(court):
    prosecutor, written = court
    ledger = Ledger(prosecutor.database)

    def prepare():
        write = written.approve()

        def perform():
            try:
                write.perform(ledger)
            except Exception as error:
                raise ZeroDivisionError from error

        return Trial(perform=perform, stored=lambda: False)

    tally = tried(court, UseCase(name="leaky", prepare=prepare))

    assert tally.violations["leaky: raised ZeroDivisionError"] > 0
    assert tally.violations["leaky: not stored"] > 0


@pytest.mark.parametrize(
    ("cases", "names"),
    [
        (service_cases, {"apply", "revert", "approve", "suite", "propose"}),
        (branch_cases, {"branch", "promote", "protect"}),
    ],
)
def test_a_server_s_use_cases_stand_every_fault(cases, names):
    with stores([Kind.SQLITE]) as (store,), store.ledger() as url, open_services(url) as opened:
        server = InProcess(
            database=opened.ledger._database,
            ledger=opened.ledger,
            model=opened.changes.model,
            serving=opened.serving,
            operations=opened.operations,
            changes=opened.changes,
            branches=opened.branches,
            proposals=opened.proposals,
            suites=opened.upkeep.suites,
            edits=[opened.proposed().id],
            request=edit_request("Louvre", "Rome"),
        )
        with Injector().listening() as injector:
            prosecutor = Prosecutor(
                database=server.database,
                model=server.model,
                injector=injector,
                tally=FaultTally(),
                served=server.serves_the_head,
            )
            for case in cases(server):
                prosecutor.try_all(case, Fault.LOST)

    assert not prosecutor.tally.violations
    assert set(prosecutor.tally.calls) == names
