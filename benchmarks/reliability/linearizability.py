"""Was there one order in which every call happened at once, between its start and its reply?

The search of Wing and Gong: take any call that no other pending one preceded, see whether the
model gives the reply it got, go on from there, and go back where that leads nowhere. A call
that changes nothing is taken as soon as it fits, which never spoils what comes later.

Invariant: a call whose outcome nobody learned may have happened at any time since, or never.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf

from errata_server.domain.edits import AppliedEdit, AppliedSet
from errata_server.domain.errors import PreconditionError
from errata_server.domain.ids import Digest, EditId


class Outcome(StrEnum):
    """What a client was told."""

    DONE = "done"
    STALE = "stale"
    """ABORTED: the head is not what was expected."""

    REFUSED = "refused"
    """The change does not fit what is applied."""

    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One call and its reply."""

    action: str
    client: int = 0
    invoked: float = 0.0
    responded: float = inf
    outcome: Outcome = Outcome.UNKNOWN
    edit: str = ""
    expected: str = ""
    """The head the caller expected, where it did."""

    branch: str = "main"
    revision: str = ""
    """What the reply named: the revision made, or the head read."""

    active: int = 0
    """Active edits the reply named, where it read a head."""

    @property
    def target(self) -> str:
        """The branch whose head the call reads or moves."""
        return "main" if self.action == "promote" else self.branch


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A branch as the model has it."""

    head: str
    applied: AppliedSet = field(default_factory=AppliedSet)
    changes: tuple[str, ...] = ()
    """The revisions whose changes led here, oldest first; a promotion adds none of its own."""


State = tuple[tuple[str, Line], ...]
"""Every branch by name; hashable, so that a search knows where it has been."""


def state_of(head: str, applied: AppliedSet) -> State:
    """A history of main alone."""
    return (("main", Line(head=head, applied=applied)),)


def with_line(state: State, name: str, line: Line) -> State:
    """``state`` with one branch replaced or added."""
    return tuple(sorted((dict(state) | {name: line}).items()))


def _read(state: State, event: Event) -> State | None:
    line = dict(state).get(event.branch)
    fits = line is not None and (line.head, line.applied.active_count) == (
        event.revision,
        event.active,
    )
    return state if fits else None


def _again(state: State, event: Event) -> State | None:
    """A request repeated: the same revision, and nothing happens."""
    return state if event.revision == event.expected else None


def _apply(state: State, event: Event) -> State | None:
    edit = AppliedEdit(edit=EditId(event.edit), subject=event.edit, patch=Digest(event.edit))
    return _change(state, event, lambda applied: applied.apply([edit]))


def _revert(state: State, event: Event) -> State | None:
    return _change(state, event, lambda applied: applied.revert([EditId(event.edit)]))


def _change(state: State, event: Event, change: Callable[[AppliedSet], AppliedSet]) -> State | None:
    line = dict(state).get(event.branch)
    if line is None:
        return None
    if event.expected and event.expected != line.head:
        return state if event.outcome in {Outcome.STALE, Outcome.UNKNOWN} else None
    try:
        applied = change(line.applied)
    except PreconditionError:
        return state if event.outcome in {Outcome.REFUSED, Outcome.UNKNOWN} else None
    if event.outcome is Outcome.STALE and not event.expected:
        return state  # it was put on top of a new head as often as it may be
    if event.outcome not in {Outcome.DONE, Outcome.UNKNOWN}:
        return None
    after = Line(head=event.revision, applied=applied, changes=(*line.changes, event.revision))
    return with_line(state, event.branch, after)


def _create(state: State, event: Event) -> State | None:
    """A new branch begins with what main has."""
    lines = dict(state)
    if event.branch in lines:
        return state if event.outcome in {Outcome.REFUSED, Outcome.UNKNOWN} else None
    if event.outcome not in {Outcome.DONE, Outcome.UNKNOWN}:
        return None
    return with_line(state, event.branch, replace(lines["main"], head=event.revision))


def _promote(state: State, event: Event) -> State | None:
    """Main takes over what a branch has applied, if it has nothing the branch lacks."""
    lines = dict(state)
    source, main = lines.get(event.branch), lines["main"]
    if event.expected and event.expected != main.head:
        return state if event.outcome in {Outcome.STALE, Outcome.UNKNOWN} else None
    if source is None or source.applied == main.applied or not _leads_to(main, source):
        return state if event.outcome in {Outcome.REFUSED, Outcome.UNKNOWN} else None
    if event.outcome is Outcome.STALE and not event.expected:
        return state  # main or the branch moved on as often as it was tried
    if event.outcome not in {Outcome.DONE, Outcome.UNKNOWN}:
        return None
    return with_line(state, "main", replace(source, head=event.revision))


def _leads_to(earlier: Line, later: Line) -> bool:
    return later.changes[: len(earlier.changes)] == earlier.changes


STEPS: dict[str, Callable[[State, Event], State | None]] = {
    "read": _read,
    "again": _again,
    "apply": _apply,
    "revert": _revert,
    "create": _create,
    "promote": _promote,
}
"""What each action does to the model; nothing where the reply does not fit."""


def linearizable(history: Sequence[Event], initial: State) -> bool:
    """Whether some order explains every reply."""
    events = sorted(history, key=lambda event: event.invoked)
    finished = sum(
        1 << place for place, event in enumerate(events) if event.outcome is not Outcome.UNKNOWN
    )
    todo: list[tuple[int, State]] = [(0, initial)]
    seen: set[tuple[int, State]] = set()
    while todo:
        done, state = _settled(events, *todo.pop())
        if done & finished == finished:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        for place in _minimal(events, done):
            after = STEPS[events[place].action](state, events[place])
            if after is not None:
                todo.append((done | 1 << place, after))
    return False


def _settled(events: Sequence[Event], done: int, state: State) -> tuple[int, State]:
    """Everything taken that fits and changes nothing."""
    while True:
        quiet = [
            place
            for place in _minimal(events, done)
            if STEPS[events[place].action](state, events[place]) == state
        ]
        if not quiet:
            return done, state
        for place in quiet:
            done |= 1 << place


def _minimal(events: Sequence[Event], done: int) -> list[int]:
    """The pending calls that began before any other pending one had ended."""
    found: list[int] = []
    earliest = inf
    for place, event in enumerate(events):
        if event.invoked > earliest:
            break
        if not done >> place & 1:
            found.append(place)
            earliest = min(earliest, event.responded)
    return [place for place in found if events[place].invoked <= earliest]
