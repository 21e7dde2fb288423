"""Random histories of several branches against a plain-Python model of them.

The model knows nothing of parents, sources and stretches: a branch is the tuple of changes that
led to it, and one may be promoted to another exactly if the other's tuple begins its own.
"""

import shutil
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from errata_server.domain.errors import DivergedError
from errata_server.domain.ids import MAIN, BranchName
from errata_server.domain.revisions import RevisionKind
from errata_server.ledger.database import Database
from errata_server.ledger.ledger import Ledger
from tests.support import MODEL
from tests.support.histories import Chronicler

SUBJECTS = ("Louvre", "Louvre", "Louvre", "Prado", "Prado", "Big Ben")
MOST_BRANCHES = 4


@dataclass(frozen=True)
class Change:
    """One apply or revert; two that do the same are still two."""

    number: int
    kind: RevisionKind
    edits: tuple[int, ...]


Line = tuple[Change, ...]


def state(line: Line) -> list[int]:
    """The edits applied at the end of a line, oldest first."""
    present: list[int] = []
    for change in line:
        if change.kind is RevisionKind.APPLY:
            present += change.edits
        else:
            present = [edit for edit in present if edit not in change.edits]
    return present


class BranchHistories(RuleBasedStateMachine):
    """The oracle is `lines` and `past`; everything else is the ledger's."""

    def __init__(self, template, folder) -> None:
        super().__init__()
        self.database = Database(f"sqlite:///{shutil.copy(template, folder)}")
        self.chronicler = Chronicler(Ledger(self.database))
        self.edits = [self.chronicler.propose(subject) for subject in SUBJECTS]
        self.numbers = count()
        self.lines: dict[BranchName, Line] = {MAIN: ()}
        self.past: dict[str, Line] = {self.chronicler.head(): ()}

    @rule(data=st.data())
    def apply(self, data):
        branch = data.draw(st.sampled_from(sorted(self.lines)))
        free = [n for n in range(len(self.edits)) if n not in state(self.lines[branch])]
        if free:
            self._change(data, branch, RevisionKind.APPLY, free)

    @rule(data=st.data())
    def revert(self, data):
        branch = data.draw(st.sampled_from(sorted(self.lines)))
        present = state(self.lines[branch])
        if present:
            self._change(data, branch, RevisionKind.REVERT, present)

    @rule(data=st.data())
    @precondition(lambda self: len(self.lines) < MOST_BRANCHES)
    def begin(self, data):
        start = data.draw(st.sampled_from(sorted(self.past)))
        name = BranchName(f"trial-{len(self.lines)}")
        made = self.chronicler.begin(name, start)
        self.lines[name] = self.past[made.id] = self.past[start]

    @rule(data=st.data())
    @precondition(lambda self: len(self.lines) > 1)
    def promote(self, data):
        names = st.lists(st.sampled_from(sorted(self.lines)), min_size=2, max_size=2, unique=True)
        source, target = data.draw(names)
        made = self.chronicler.next_promotion(source, target)
        if self.lines[source][: len(self.lines[target])] != self.lines[target]:
            with pytest.raises(DivergedError):
                self.chronicler.ledger.append(made)
            return
        before, after = state(self.lines[target]), state(self.lines[source])
        assert [e.edit for e in made.edits] == self._ids(n for n in after if n not in before)
        assert [e.edit for e in made.removed] == self._ids(n for n in before if n not in after)
        self.chronicler.ledger.append(made)
        self.lines[target] = self.past[made.id] = self.lines[source]

    @rule(data=st.data())
    def turn_protection(self, data):
        """On and off: a change of policy is part of no line."""
        branch = data.draw(st.sampled_from(sorted(self.lines)))
        for protected in (True, False):
            made = self.chronicler.protect(branch, protected=protected)
            self.past[made.id] = self.lines[branch]

    @invariant()
    def every_head_folds_to_the_model(self):
        for branch, line in self.lines.items():
            head = self.chronicler.ledger.head(MODEL, branch)
            self._folds(head.id, line)
            assert head.active_count == len({SUBJECTS[n] for n in state(line)})

    def teardown(self):
        try:
            for revision, line in self.past.items():
                self._folds(revision, line)
            assert self.chronicler.ledger.audit(MODEL).findings == ()
        finally:
            self.database.close()

    def _change(self, data, branch, kind, possible):
        some = st.lists(st.sampled_from(possible), min_size=1, max_size=3, unique=True)
        chosen = tuple(data.draw(some))
        edits = [self.edits[number] for number in chosen]
        made = self.chronicler.next_revision(kind, *edits, branch=branch)
        self.chronicler.ledger.append(made)
        change = Change(next(self.numbers), kind, chosen)
        self.lines[branch] = self.past[made.id] = (*self.lines[branch], change)

    def _folds(self, revision, line):
        applied = self.chronicler.ledger.applied(MODEL, revision)
        assert [one.edit for one in applied.applied] == self._ids(state(line))

    def _ids(self, numbers):
        return [self.edits[number].edit.id for number in numbers]


def test_any_history_of_branches_folds_to_the_model_of_it(migrated_sqlite, tmp_path_factory):
    folders = (tmp_path_factory.mktemp("branches") / f"{number}.db" for number in count())
    run_state_machine_as_test(
        lambda: BranchHistories(migrated_sqlite, next(folders)),  # type: ignore[arg-type] # hypothesis calls it, no more
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
