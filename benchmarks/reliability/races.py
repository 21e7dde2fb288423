"""The suite `races`: clients that change the same branches at once, and one order behind it all.

Clients with connections of their own read, apply and revert on main and on branches they make,
and promote those to main, without waiting for each other, half of the changes on the condition
that the head is the one they saw last; some repeat a request. In every other round main is
changed by promotions alone, which succeed more often there: a branch that lacks a change of main
is refused. On SQLite they share a server, on PostgreSQL there are two servers on one ledger. Every
call is written down with when it began and ended, and the history is held against the pure model.

Invariant: nobody uses a branch before somebody was told that it exists: where a branch starts is
settled a little before its name is taken, and only who uses names nobody gave out can tell.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

import errata
import errata.testing
from benchmarks.document import Document
from benchmarks.reliability.databases import Kind, Store, stores
from benchmarks.reliability.linearizability import Event, Outcome, State, linearizable, state_of
from benchmarks.reliability.options import Options, log
from benchmarks.reliability.playground import OVERRIDE, propose_edits
from errata_server.domain.edits import AppliedSet

ROUNDS: Final = 20
CLIENTS: Final = 8
CALLS: Final = 25
"""Calls of one client in a round."""

MAIN: Final = "main"
BRANCHES: Final = 3
"""Names of branches that clients of a round contend for."""

EDITS: Final = 3
"""A proposal takes a server seconds; these are enough to contend for."""

REFUSALS: Final = (errata.PreconditionError, errata.BranchExistsError)
CHANGING: Final = {"apply", "revert", "create", "promote"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A change that can be asked for again."""

    action: str
    edit: str
    branch: str
    expected: str
    request_id: str

    def ask(self, client: errata.Client) -> errata.Change:
        """Ask for it."""
        if self.action == "revert":
            return client.revert(
                self.edit,
                branch=self.branch,
                expected_revision=self.expected,
                request_id=self.request_id,
            )
        return client.apply(
            self.edit,
            branch=self.branch,
            expected_revision=self.expected,
            request_id=self.request_id,
            override_reason=OVERRIDE,
        )


@dataclass(slots=True, kw_only=True)
class Player:
    """One client and what it has seen."""

    number: int
    client: errata.Client
    draw: random.Random
    edits: Sequence[str]
    names: Sequence[str]
    """What a branch may be called."""

    branches: list[str]
    """Those that somebody was told to exist, main first; all players share it."""

    promoting: bool = False
    """Whether main is changed by promotions alone, so that more of them succeed."""

    history: list[Event] = field(default_factory=list)
    heads: dict[str, str] = field(default_factory=dict)
    """The head of each branch it saw last."""

    made: tuple[Request, str] | None = None
    """A change it made, and its revision."""

    retries: int = 0

    def play(self, calls: int) -> None:
        """Call after call; whoever is told ABORTED reads the head and tries once more."""
        weights = [weight for weight, _ in ACTIONS.values()]
        for name in self.draw.choices(list(ACTIONS), weights, k=calls):
            _, act = ACTIONS[name]
            if act(self) is Outcome.STALE:
                self.retries += 1
                read_head(self, self.history[-1].target)
                act(self)

    def record(self, event: Event, call: Callable[[], errata.Revision]) -> Outcome:
        """Make a call, and write down what came of it."""
        invoked = time.perf_counter()
        found: errata.Revision | None = None
        try:
            found, outcome = call(), Outcome.DONE
        except errata.StaleRevisionError:
            outcome = Outcome.STALE
        except REFUSALS:
            outcome = Outcome.REFUSED
        except errata.ErrataError:
            outcome = Outcome.UNKNOWN
        responded = inf if outcome is Outcome.UNKNOWN else time.perf_counter()
        event = replace(
            event, client=self.number, invoked=invoked, responded=responded, outcome=outcome
        )
        if found is not None:
            event = replace(event, revision=found.name, active=found.active_count)
            if event.action != "again":
                self.heads[event.target] = found.name
        self.history.append(event)
        return outcome

    def expected(self, branch: str) -> str:
        """The head of a branch it saw last, half of the times; else none."""
        return self.heads.get(branch, "") if self.draw.random() < 0.5 else ""

    def changed_branch(self) -> str:
        """A branch to apply or revert on."""
        others = self.branches[1:]
        return self.draw.choice(others if self.promoting and others else self.branches)

    def new_request_id(self) -> str:
        """An id nobody has used."""
        return f"{self.draw.getrandbits(128):032x}"


def read(player: Player) -> Outcome:
    """Read the head of a branch."""
    return read_head(player, player.draw.choice(player.branches))


def read_head(player: Player, branch: str) -> Outcome:
    """Read the head of this branch."""
    event = Event(action="read", branch=branch)
    return player.record(event, lambda: player.client.head(branch).revision)


def change(action: str) -> Callable[[Player], Outcome]:
    """Apply or revert an edit, half of the times on condition that the head is the one seen."""

    def act(player: Player) -> Outcome:
        branch = player.changed_branch()
        request = Request(
            action=action,
            edit=player.draw.choice(player.edits),
            branch=branch,
            expected=player.expected(branch),
            request_id=player.new_request_id(),
        )
        event = Event(action=action, edit=request.edit, branch=branch, expected=request.expected)
        outcome = player.record(event, lambda: request.ask(player.client).revision)
        if outcome is Outcome.DONE:
            player.made = (request, player.history[-1].revision)
        return outcome

    return act


def again(player: Player) -> Outcome:
    """Repeat a request that was answered."""
    if player.made is None:
        return read(player)
    request, revision = player.made
    event = Event(action="again", branch=request.branch, expected=revision)
    return player.record(event, lambda: request.ask(player.client).revision)


def create(player: Player) -> Outcome:
    """Begin a branch at main's head, by a name that others want too."""
    name = player.draw.choice(player.names)
    outcome = player.record(
        Event(action="create", branch=name), lambda: player.client.create_branch(name).head
    )
    if outcome is Outcome.DONE:
        player.branches.append(name)
    return outcome


def promote(player: Player) -> Outcome:
    """Let main have what a branch has, half of the times if main is as it was seen."""
    others = player.branches[1:]
    if not others:
        return create(player)
    name, expected = player.draw.choice(others), player.expected(MAIN)
    event = Event(action="promote", branch=name, expected=expected)
    return player.record(
        event, lambda: player.client.promote(name, expected_revision=expected).revision
    )


ACTIONS: Final[dict[str, tuple[int, Callable[[Player], Outcome]]]] = {
    "read": (4, read),
    "apply": (5, change("apply")),
    "revert": (3, change("revert")),
    "again": (1, again),
    "create": (1, create),
    "promote": (3, promote),
}
"""What clients do, and how often; the model's side is `linearizability.STEPS`."""


@dataclass(slots=True)
class RaceTally:
    """What the races came to."""

    calls: int = 0
    committed: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    promoted: int = 0
    branches: int = 0
    retries: int = 0
    violations: int = 0
    """Histories that no order explains, and ledgers that hold something else than they say."""


def race(
    addresses: Sequence[str], edits: Sequence[str], seed: int, calls: int
) -> tuple[list[Event], int]:
    """One round: what all clients were told, and how often one tried again."""
    names = [f"trial-{seed}-{number}" for number in range(BRANCHES)]
    branches = [MAIN]
    with ExitStack() as stack:
        players = [
            Player(
                number=number,
                client=stack.enter_context(errata.Client(addresses[number % len(addresses)])),
                draw=random.Random(f"{seed}-{number}"),
                edits=edits,
                names=names,
                branches=branches,
                promoting=seed % 2 == 1,
            )
            for number in range(CLIENTS)
        ]
        threads = [threading.Thread(target=player.play, args=(calls,)) for player in players]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    history = [event for player in players for event in player.history]
    return history, sum(player.retries for player in players)


def judge(history: Sequence[Event], initial: State, made: Sequence[str], tally: RaceTally) -> None:
    """Count a history, and hold it against the model and the revisions of the ledger."""
    tally.calls += len(history)
    tally.outcomes.update(event.outcome for event in history)
    tally.committed += len(made)
    done = Counter(event.action for event in history if event.outcome is Outcome.DONE)
    tally.promoted += done["promote"]
    tally.branches += done["create"]
    tally.violations += not linearizable(history, initial)
    told = {
        event.revision
        for event in history
        if event.action in CHANGING and event.outcome is Outcome.DONE
    }
    unknown = sum(event.outcome is Outcome.UNKNOWN for event in history)
    tally.violations += not (told <= set(made) and len(made) - len(told) <= unknown)


def play(store: Store, rounds: int, seed: int, tally: RaceTally, calls: int = CALLS) -> None:
    """All rounds on one kind of database, each from where the last one ended."""
    servers = 2 if store.kind is Kind.POSTGRESQL else 1
    with store.ledger() as url, ExitStack() as stack:
        running = [stack.enter_context(errata.testing.server(ledger=url)) for _ in range(servers)]
        addresses = [server.address for server in running]
        client = stack.enter_context(errata.Client(addresses[0]))
        edits = propose_edits(client, EDITS)
        for number in range(rounds):
            start = client.head().revision
            if edits_applied := _applied(client):
                start = client.revert(edits_applied).revision
            history, retries = race(addresses, edits, seed + number, calls)
            tally.retries += retries
            made = made_since(client, start.sequence, seed + number)
            judge(history, state_of(start.name, AppliedSet()), made, tally)
            tally.violations += not client.audit().clean


def made_since(client: errata.Client, sequence: int, seed: int) -> list[str]:
    """Names of the revisions after that one of main, and of all on the round's branches."""
    found = [r.name for r in client.revisions() if r.sequence > sequence]
    for branch in client.branches():
        if branch.id.startswith(f"trial-{seed}-"):
            found += [revision.name for revision in client.revisions(branch.id)]
    return found


def _applied(client: errata.Client) -> list[str]:
    live = (errata.EditState.APPLIED, errata.EditState.SUPERSEDED)
    return [edit.id for state in live for edit in client.edits(state=state)]


def run(options: Options) -> Document:
    """So many rounds on every database."""
    tally = RaceTally()
    with stores(options.kinds) as found:
        for store in found:
            log.print(f"{store.kind}: {options.rounds} rounds of {CLIENTS} clients")
            play(store, options.rounds, options.seed, tally)
    return Document(
        benchmark="reliability races",
        settings=options.settings | {"clients": CLIENTS},
        figures={
            "calls": tally.calls,
            "committed": tally.committed,
            "branches": tally.branches,
            "promoted": tally.promoted,
            "aborted": tally.outcomes[Outcome.STALE],
            "refused": tally.outcomes[Outcome.REFUSED],
            "unknown": tally.outcomes[Outcome.UNKNOWN],
            "retries": tally.retries,
            "violations": tally.violations,
        },
    )
