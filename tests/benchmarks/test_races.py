"""The suite `races` finds the histories that no order explains."""

import random
from dataclasses import replace

import pytest

import errata
from benchmarks.reliability.linearizability import Event, Outcome, linearizable, state_of
from benchmarks.reliability.races import (
    ACTIONS,
    CLIENTS,
    Player,
    RaceTally,
    judge,
    made_since,
    race,
)
from errata_server.domain.edits import AppliedSet
from tests.support.loopback import serving

START = state_of("r0", AppliedSet())


def did(action, invoked, responded, outcome=Outcome.DONE, **told):
    return Event(action=action, invoked=invoked, responded=responded, outcome=outcome, **told)


FIRST = did("apply", 0, 1, edit="a", expected="r0", revision="r1")
SECOND = did("apply", 2, 3, edit="b", expected="r1", revision="r2")
TRIAL = did("create", 0, 1, branch="trial", revision="t0")
TRIED = did("apply", 2, 3, branch="trial", edit="a", revision="t1")

EXPLAINED = {
    "one after the other": [FIRST, SECOND],
    "side by side, the answers crossed": [
        replace(SECOND, invoked=0, responded=9),
        replace(FIRST, invoked=0, responded=9),
    ],
    "the loser is told so": [
        FIRST,
        did("apply", 0, 2, Outcome.STALE, edit="b", expected="r0"),
    ],
    "an old head is read before the change is answered": [
        replace(FIRST, responded=5),
        did("read", 1, 2, revision="r0"),
        did("read", 3, 4, revision="r1", active=1),
    ],
    "applied already": [FIRST, did("apply", 2, 3, Outcome.REFUSED, edit="a")],
    "not applied yet": [
        did("revert", 0, 1, Outcome.REFUSED, edit="a"),
        replace(FIRST, invoked=2, responded=3),
    ],
    "repeated": [FIRST, did("again", 2, 3, expected="r1", revision="r1")],
    "main has changed since the branch began": [
        TRIAL,
        TRIED,
        replace(FIRST, invoked=2, responded=3),
        did("promote", 4, 5, Outcome.REFUSED, branch="trial"),
    ],
    "there is nothing to promote": [
        TRIAL,
        did("promote", 2, 3, Outcome.REFUSED, branch="trial"),
    ],
    "main is another than who promotes believes": [
        TRIAL,
        TRIED,
        did("promote", 4, 5, Outcome.STALE, branch="trial", expected="r9"),
    ],
    "two begin one branch, and one is told so": [
        TRIAL,
        did("create", 0, 2, Outcome.REFUSED, branch="trial"),
    ],
    "a branch that goes on is promoted again": [
        TRIAL,
        TRIED,
        did("promote", 4, 5, branch="trial", revision="r1"),
        did("revert", 6, 7, branch="trial", edit="a", revision="t2"),
        did("promote", 8, 9, branch="trial", expected="r1", revision="r2"),
        did("read", 10, 11, revision="r2", active=0),
    ],
    "nobody knows of a promotion": [
        TRIAL,
        TRIED,
        Event(action="promote", branch="trial", invoked=4, revision="r1"),
        did("read", 6, 7, revision="r1", active=1),
    ],
    "nobody knows": [Event(action="apply", edit="z", revision="r9"), replace(FIRST, invoked=1)],
}
UNEXPLAINED = {
    "two win over one head": [
        FIRST,
        did("apply", 0, 1, edit="b", expected="r0", revision="r2"),
    ],
    "a head is read that was left before": [FIRST, did("read", 2, 3, revision="r0")],
    "a head is read that is not there yet": [
        did("read", 0, 1, revision="r1", active=1),
        replace(FIRST, invoked=2, responded=3),
    ],
    "more is active than was applied": [FIRST, did("read", 2, 3, revision="r1", active=2)],
    "aborted although the head was the one": [
        FIRST,
        replace(SECOND, outcome=Outcome.STALE, revision=""),
    ],
    "applied twice": [FIRST, did("apply", 2, 3, edit="a", revision="r2")],
    "refused although it fits": [did("apply", 0, 1, Outcome.REFUSED, edit="a")],
    "reverted although not applied": [did("revert", 0, 1, edit="a", revision="r1")],
    "a request done twice": [FIRST, did("again", 2, 3, expected="r1", revision="r2")],
    "a promotion is refused although it fits": [
        TRIAL,
        TRIED,
        did("promote", 4, 5, Outcome.REFUSED, branch="trial"),
    ],
    "a promotion is aborted although main is the one": [
        TRIAL,
        TRIED,
        did("promote", 4, 5, Outcome.STALE, branch="trial", expected="r0"),
    ],
    "two begin one branch": [TRIAL, did("create", 0, 2, branch="trial", revision="t9")],
    "a branch begins without what main has": [
        FIRST,
        did("create", 2, 3, branch="trial", revision="t0"),
        did("read", 4, 5, branch="trial", revision="t0", active=0),
    ],
    "promoted over a change of main": [
        TRIAL,
        replace(FIRST, invoked=2, responded=3),
        did("promote", 4, 5, branch="trial", revision="r2"),
    ],
}


@pytest.mark.parametrize("history", EXPLAINED.values(), ids=EXPLAINED)
def test_a_history_that_some_order_explains(history):
    assert linearizable(history, START)


@pytest.mark.parametrize("history", UNEXPLAINED.values(), ids=UNEXPLAINED)
def test_a_history_that_no_order_explains(history):
    assert not linearizable(history, START)


def test_a_branch_is_promoted_once_main_is_what_it_began_at():
    history = [
        did("create", 0, 1, branch="trial", revision="t0"),
        did("apply", 2, 3, branch="trial", edit="a", revision="t1"),
        did("promote", 4, 5, branch="trial", revision="r1"),
        did("read", 6, 7, revision="r1", active=1),
        did("apply", 8, 9, Outcome.REFUSED, edit="a"),
    ]

    assert linearizable(history, START)


def test_a_history_without_an_order_and_a_ledger_with_more_than_was_told_are_violations():
    tally = RaceTally()

    judge(UNEXPLAINED["two win over one head"], START, ["r1", "r2"], tally)
    judge([FIRST], START, ["r1", "r2"], tally)
    judge([FIRST], START, ["r1"], tally)

    assert tally.violations == 2
    assert tally.committed == 5


def test_clients_that_race_on_a_server_are_explained(tmp_path):
    tally = RaceTally()
    with serving(tmp_path) as server, errata.Client(server.address) as client:
        fact = errata.Fact(template="{} is in the city of", target="Rome")
        edits = [
            client.propose(subject, fact).result(20).edit.id
            for subject in ("Space Needle", "Louvre")
        ]
        history, _ = race([server.address], edits, seed=1, calls=6)
        made = made_since(client, 0, seed=1)
        genesis = client.revision("0").name

    judge(history, state_of(genesis, AppliedSet()), made, tally)

    assert {event.client for event in history} == set(range(CLIENTS))
    assert {event.action for event in history} <= set(ACTIONS)
    assert (tally.violations, tally.outcomes[Outcome.UNKNOWN]) == (0, 0)
    assert tally.committed > 0


@pytest.mark.parametrize("promoting", [False, True])
def test_main_is_changed_by_promotions_alone_in_every_other_round(promoting):
    with errata.Client("127.0.0.1:1") as client:
        player = Player(
            number=0,
            client=client,
            draw=random.Random(1),
            edits=[],
            names=[],
            branches=["main"],
            promoting=promoting,
        )
        at_first = player.changed_branch()
        player.branches.append("trial")
        later = {player.changed_branch() for _ in range(20)}

    assert at_first == "main"
    assert later == ({"trial"} if promoting else {"main", "trial"})
