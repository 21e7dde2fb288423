"""Whatever has been done, the served model is the one its active edits make, bit for bit.

Random histories of proposing, applying, reverting, branching, promoting and restarting run over
the real services, a real SQLite ledger and the real engine on a tiny random GPT-2. After every
step what is served is held against a replay from nothing: a plain Python list of what is applied,
its newest edit of each subject, decoded and composed again, run on a second copy of the
checkpoint that no server has ever touched. (What a set of edits gives there is computed once
and kept: it must be the same however, and however often, a history comes to that set.)

A default run takes some 2,000 steps; ``ERRATA_HISTORIES=10000`` takes that many.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Final

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from errata_server.domain.errors import (
    AlreadyAppliedError,
    ErrataError,
    NotAppliedError,
    PreconditionError,
)
from errata_server.domain.facts import EditRequest, Fact
from errata_server.domain.ids import MAIN, BranchName, EditId, RequestId
from errata_server.domain.operations import OperationState
from errata_server.domain.patches import Composition
from errata_server.engine import answers
from errata_server.engine.bank import Bank, compose
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.engine import TorchEngine
from errata_server.engine.patch import decode
from errata_server.engine.runner import Runner
from errata_server.service.calls import Call
from tests.support import tiny_models, torch_servers

STEPS_A_HISTORY: Final = 40
STEPS: Final = int(os.environ.get("ERRATA_HISTORIES", "2000"))
PROPOSES_EVERY: Final = 5
PATIENCE: Final = 120.0
TEMPLATE: Final = tiny_models.TEMPLATES[0]

SUBJECTS: Final = ("Eiffel Tower", "Big Ben", "Prado", "Café Gijón")
PROPOSED: Final = (
    *((subject, "Rome") for subject in SUBJECTS),
    *((subject, "Berlin") for subject in SUBJECTS[:2]),
    (SUBJECTS[0], "Seattle"),
)
"""What every history begins with: some subjects more than once, so that edits supersede."""

CITIES: Final = ("London", "Madrid")
PROMPTS: Final = (
    *(template.format(subject) for template in tiny_models.TEMPLATES[:2] for subject in SUBJECTS),
    "Nobody doubts that a tower is tall.",
)
"""The batch whose logits are compared; its shape never changes, so neither may a bit."""

LENIENT: Final = {**torch_servers.LENIENT, "minimum_efficacy": 0.0, "minimum_paraphrase": 0.0}


@dataclass(frozen=True)
class Applied:
    """What the oracle knows of an edit."""

    edit: EditId
    subject: str
    payload: bytes

    @property
    def digest(self) -> str:
        return sha256(self.payload).hexdigest()


def active(applied: tuple[Applied, ...]) -> list[Applied]:
    """The newest of each subject, by edit id: the oracle's whole idea of what is served."""
    newest = {one.subject: one for one in applied}
    return sorted(newest.values(), key=lambda one: one.edit)


@dataclass(frozen=True)
class Replay:
    """What the untouched copy makes of a set of edits."""

    digest: str
    logits: torch.Tensor
    scored: dict[str, str]
    """Prompt to the digest of its logits."""


@dataclass
class Untouched:
    """A copy of the checkpoint that only ever answers what is asked here."""

    runner: Runner

    def __post_init__(self) -> None:
        rows = [self.runner.tokens.fit(prompt) for prompt in PROMPTS]
        self.batch = self.runner.tokens.pad(rows)
        self.digest = self.runner.checkpoint.digest
        self.base = self.runner.logits(self.batch, Bank())
        self._replays: dict[tuple[str, ...], Replay] = {}

    def replay(self, applied: tuple[Applied, ...]) -> "Replay":
        """The active edits composed from their bytes alone."""
        key = tuple(one.digest for one in active(applied))
        if key not in self._replays:
            patches = [decode(one.payload, model=self.digest) for one in active(applied)]
            bank = compose(patches, Composition.GUARDED, self.runner.device)
            self._replays[key] = Replay(
                digest=bank.digest(),
                logits=self.runner.logits(self.batch, bank),
                scored={p: answers.score(self.runner, p, [], bank).logits_digest for p in PROMPTS},
            )
        return self._replays[key]

    def active_set_digest(self, applied: tuple[Applied, ...]) -> str:
        value = {
            "model": self.digest,
            "composition": "guarded",
            "patches": sorted(one.digest for one in active(applied)),
        }
        text = json.dumps(value, sort_keys=True, separators=(",", ":"))
        return sha256(text.encode()).hexdigest()


@dataclass
class Workshop:
    """What all histories share: the checkpoint served, its untouched copy, the first ledger."""

    folder: Path
    served: Runner
    untouched: Untouched
    numbers: "count[int]" = field(default_factory=count)

    def engine(self) -> TorchEngine:
        """An engine that remembers nothing, on the checkpoint as it is in memory."""
        engine = TorchEngine(self.served, cache=self.folder / "cache", texts=torch_servers.TEXTS)
        engine.use_profile(tiny_models.tiny_profile(self.served, layer=0, max_steps=1))
        return engine

    def ledger(self) -> Path:
        """A folder with a ledger in which `PROPOSED` is proposed and nothing applied."""
        folder = self.folder / f"history-{next(self.numbers)}"
        shutil.copytree(self.folder / "first", folder)
        return folder


class Server:
    """The services of one server process, opened on a folder."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        self.assembled = torch_servers.assemble(folder, workshop.engine(), policy=LENIENT)
        self.services, self.ledger = self.assembled.services, self.assembled.ledger
        self.services.serving.start()
        self.services.operations.lease.start()

    def close(self) -> None:
        self.services.operations.close(grace=0)
        self.services.operations.lease.release()
        self.services.pools.close()
        self.assembled.database.close()

    def propose(self, subject: str, target: str) -> Applied:
        request = EditRequest(subject=subject, facts=(Fact(template=TEMPLATE, target=target),))
        started = self.services.proposals.propose(request, call())
        ended = self.services.operations.wait(started.id, PATIENCE)
        assert ended.state is OperationState.SUCCEEDED, ended.failure
        return self.known(EditId(ended.result["edit"]))

    def known(self, edit_id: EditId) -> Applied:
        edit = self.ledger.edit(edit_id)
        return Applied(edit_id, edit.request.subject, self.ledger.artifact(edit.patch))


def call() -> Call:
    return Call(actor="ana", request_id=RequestId(""), reason="a history")


@pytest.fixture(scope="module")
def workshop(random_checkpoint, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("histories")
    served, untouched = (Runner(load_checkpoint(str(random_checkpoint))) for _ in range(2))
    workshop = Workshop(folder, served, Untouched(untouched))
    (folder / "first").mkdir()
    server = Server(workshop, folder / "first")
    for subject, target in PROPOSED:
        server.propose(subject, target)
    server.close()
    yield workshop
    served.close()
    untouched.close()


class Histories(RuleBasedStateMachine):
    """The oracle is `applied` and `past`; everything else is the server's."""

    def __init__(self, workshop: Workshop) -> None:
        super().__init__()
        self.workshop = workshop
        self.folder = workshop.ledger()
        self.server = Server(workshop, self.folder)
        stored = self.server.ledger.edit_ids(torch_servers.TINY, limit=100)
        self.edits = sorted(map(self.server.known, stored), key=_by_edit)
        self.applied: tuple[Applied, ...] = ()
        self.past = [self.applied]
        self.asked = 0
        self.changes = 0
        self.branches = 0
        self.may_propose = False

    @initialize(turn=st.integers(0, PROPOSES_EVERY - 1))
    def choose_whether_to_propose(self, turn):
        self.may_propose = turn == 0

    @rule(subject=st.sampled_from(SUBJECTS), city=st.sampled_from(CITIES))
    @precondition(lambda self: self.may_propose and len(self.past) > 4)
    def propose(self, subject, city):
        """Once in some histories: computing an edit takes the longest by far."""
        self.may_propose = False
        self.edits.append(self.server.propose(subject, city))

    @rule(data=st.data())
    @precondition(lambda self: len(self.applied) < len(self.edits))
    def apply(self, data):
        free = [one for one in self.edits if one not in self.applied]
        chosen = data.draw(st.lists(st.sampled_from(free), min_size=1, max_size=3, unique=True))

        pinned = self._apply(chosen)

        was, now = active(self.applied), active((*self.applied, *chosen))
        hidden = {one.edit for one in (*was, *chosen)} - {one.edit for one in now}
        assert set(pinned.revision.superseded) == hidden & {one.edit for one in was}
        self._committed((*self.applied, *chosen))

    @rule(data=st.data())
    @precondition(lambda self: self.applied)
    def revert(self, data):
        chosen = data.draw(st.lists(st.sampled_from(self.applied), min_size=1, unique=True))

        self._revert(chosen)

        self._committed(tuple(one for one in self.applied if one not in chosen))

    @rule(data=st.data())
    def revert_to(self, data):
        sequence = data.draw(st.integers(0, len(self.past) - 1))
        wanted = self.past[sequence]
        left = tuple(one for one in self.applied if one in wanted)
        if left == wanted != self.applied:
            self._revert([], to_revision=str(sequence))
            self._committed(wanted)
        else:
            self._refused(PreconditionError, lambda: self._revert([], to_revision=str(sequence)))

    @rule(data=st.data())
    def promote_a_branch(self, data):
        """Changes tried on a branch of their own are main's, in one revision, or are left there."""
        self.branches += 1
        branch = BranchName(f"trial-{self.branches}")
        self.server.services.branches.create(branch, call())
        applied = self.applied
        for _ in range(data.draw(st.integers(1, 2))):
            free = [one for one in self.edits if one not in applied]
            possible = [pool for pool in (free, list(applied)) if pool]
            chosen = data.draw(st.sampled_from(data.draw(st.sampled_from(possible))))
            changes, named = self.server.services.changes, [chosen.edit]
            if chosen in applied:
                changes.revert(named, branch, call())
                applied = tuple(one for one in applied if one is not chosen)
            else:
                changes.apply(named, branch, call(), override="a test")
                applied = (*applied, chosen)
        self._same_bits(self.server.services.serving.at(branch), applied)
        promote = partial(self.server.services.branches.promote, branch, MAIN, call())
        if applied == self.applied:
            self._refused(PreconditionError, promote)
        elif data.draw(st.booleans()):
            promote()
            self._committed(applied)

    @rule()
    @precondition(lambda self: self.changes > 2)
    def restart(self):
        self.changes = 0
        self.server.close()
        self.server = Server(self.workshop, self.folder)

    @rule(data=st.data())
    @precondition(lambda self: self.applied)
    def apply_what_is_applied(self, data):
        chosen = data.draw(st.sampled_from(self.applied))
        self._refused(AlreadyAppliedError, lambda: self._apply([chosen]))

    @rule(data=st.data())
    @precondition(lambda self: len(self.applied) < len(self.edits))
    def revert_what_is_not_applied(self, data):
        chosen = data.draw(st.sampled_from([e for e in self.edits if e not in self.applied]))
        self._refused(NotAppliedError, lambda: self._revert([*self.applied, chosen]))

    @rule(data=st.data())
    def look_back(self, data):
        """A revision of the past answers as it did then, beside the head."""
        sequence = data.draw(st.integers(0, len(self.past) - 1))
        pinned = self.server.services.serving.at(str(sequence))
        self._same_bits(pinned, self.past[sequence])

    @invariant()
    def serves_what_a_fresh_replay_gives(self):
        pinned = self.server.services.serving.head()
        revision = pinned.revision
        assert revision.sequence == len(self.past) - 1
        assert revision.active_count == len(active(self.applied))
        assert revision.active_set_digest == self.workshop.untouched.active_set_digest(self.applied)
        self._same_bits(pinned, self.applied)
        self._same_score()

    def teardown(self):
        try:
            if self.applied:
                self._revert(self.applied)
                self._committed(())
            self._same_bits(self.server.services.serving.head(), ())
            assert self.server.services.history.audit().clean
            base = self.server.assembled.engine.base_digest()
            assert base == self.workshop.untouched.digest
        finally:
            self.server.close()
            shutil.rmtree(self.folder)

    def _apply(self, chosen):
        edits = [one.edit for one in chosen]
        return self.server.services.changes.apply(edits, MAIN, call(), override="a test")

    def _revert(self, chosen, **options):
        edits = [one.edit for one in chosen]
        return self.server.services.changes.revert(edits, MAIN, call(), **options)

    def _committed(self, applied):
        self.applied = applied
        self.changes += 1
        self.past.append(applied)

    def _refused(self, error: type[ErrataError], attempt):
        with pytest.raises(error):
            attempt()

    def _same_bits(self, pinned, applied):
        untouched = self.workshop.untouched
        replayed = untouched.replay(applied)
        assert pinned.weights.digest == pinned.revision.weights_digest == replayed.digest
        served = self.workshop.served.logits(untouched.batch, pinned.weights.bank)
        assert torch.equal(served, replayed.logits)
        assert torch.equal(served, untouched.base) == (not applied)

    def _same_score(self):
        """One prompt a step, in turn, through the use case that answers Score."""
        prompt = PROMPTS[self.asked % len(PROMPTS)]
        self.asked += 1
        _, score = self.server.services.inference.score(prompt, [])
        assert score.logits_digest == self.workshop.untouched.replay(self.applied).scored[prompt]


def _by_edit(one: Applied) -> EditId:
    return one.edit


def test_every_edit_of_the_histories_changes_what_is_served(workshop):
    """Else the histories below would compare the base with itself."""
    folder = workshop.ledger()
    server = Server(workshop, folder)
    stored = server.ledger.edit_ids(torch_servers.TINY, limit=100)
    edits = [server.known(edit) for edit in stored]
    untouched = workshop.untouched

    made = [untouched.replay((edit,)).logits for edit in edits]

    server.close()
    assert len(made) == len(PROPOSED)
    for index, logits in enumerate(made):
        assert not torch.equal(logits, untouched.base)
        assert not any(torch.equal(logits, other) for other in made[:index])


@pytest.mark.slow
def test_any_history_serves_the_bits_of_a_fresh_replay_of_its_active_edits(workshop):
    run_state_machine_as_test(
        lambda: Histories(workshop),  # type: ignore[arg-type] # hypothesis calls it, no more
        settings=settings(
            max_examples=max(1, STEPS // STEPS_A_HISTORY),
            stateful_step_count=STEPS_A_HISTORY,
            deadline=None,
            derandomize=True,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
