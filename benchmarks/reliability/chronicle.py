"""Synthetic edits and revisions, as whole and as chained as a server's, without a model.

Invariant: everything is written by the ledger's own functions, so that what is tested is the
ledger and not this module; equal seeds give equal writes but for the time.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from errata_server.domain import canonical
from errata_server.domain.checks import Check, CheckKind, Report, Verdict
from errata_server.domain.edits import AppliedEdit, AppliedSet, Edit
from errata_server.domain.facts import EditRequest, Fact
from errata_server.domain.ids import (
    BranchName,
    Digest,
    EditId,
    ModelId,
    RequestId,
    RevisionId,
)
from errata_server.domain.patches import Composition
from errata_server.domain.profiles import ModelDescription, Profile
from errata_server.domain.revisions import EditReference, Revision, RevisionKind
from errata_server.ledger.ledger import Ledger

SYNTHETIC: Final = ModelId("synthetic")
TEMPLATE: Final = "The {} is in the city of"
CITIES: Final = ("Rome", "Paris", "London", "Madrid", "Berlin", "Seattle")
SHARED_SUBJECTS: Final = 40
"""Edits draw from so many subjects, so that some supersede others."""


def now() -> datetime:
    """The time, as the server would record it."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An edit with the report that is to be stored with it."""

    edit: Edit
    report: Report

    @property
    def applied(self) -> AppliedEdit:
        """The edit as a branch sees it."""
        return AppliedEdit.of(self.edit)

    @property
    def reference(self) -> EditReference:
        """The edit as a revision vouches for it."""
        return EditReference.of(self.edit, self.report)


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """A branch's newest revision with what it has applied."""

    revision: Revision
    applied: AppliedSet


def _no_weights(applied: AppliedSet) -> Digest:
    return canonical.digest(repr([edit.patch for edit in applied.active()]).encode())


def _no_payload(number: int, subject: str) -> bytes:
    return f"patch {number} of {subject}".encode()


def synthetic_description() -> ModelDescription:
    """A model nobody has loaded."""
    return ModelDescription(
        digest=canonical.digest(b"a synthetic checkpoint"),
        source="synthetic",
        architecture="gpt2",
        layers=1,
        d_model=8,
        d_in=32,
        vocabulary=64,
        context=128,
        parameters=1_000,
        dtype="float32",
        device="cpu",
    )


def synthetic_profile(model: Digest) -> Profile:
    """A profile nobody has calibrated."""
    return Profile(
        model_digest=model,
        layer=0,
        module="h.0.mlp.c_proj",
        d_in=32,
        d_out=8,
        prefixes=("",),
        learning_rate=0.5,
        clamp=4.0,
        max_steps=1,
        kl_weight=0.06,
        decay_weight=0.5,
        stop_probability=0.95,
        guard_width=0.3,
        ridge=0.01,
        moment_corpus=canonical.digest(b"no corpus"),
        moment_tokens=1,
        sequence_length=64,
        mean_value_norm=1.0,
        seed=0,
    )


@dataclass(slots=True, kw_only=True)
class Chronicle:
    """Makes what is to be written into a model's history."""

    draw: random.Random
    model: ModelId = SYNTHETIC
    description: ModelDescription = field(default_factory=synthetic_description)
    profile: Profile = field(init=False)
    payload: Callable[[int, str], bytes] = _no_payload
    """The patch of an edit's number and subject."""

    weights: Callable[[AppliedSet], Digest] = _no_weights
    """The weights digest of what a revision has applied."""

    subjects: int = SHARED_SUBJECTS
    made: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.profile = synthetic_profile(self.description.digest)

    def begin(self, ledger: Ledger) -> Top:
        """Make the model known to an empty ledger."""
        genesis = self.genesis()
        ledger.register_model(self.model, self.description, genesis=genesis)
        ledger.put_profile(self.model, self.profile)
        return Top(revision=genesis, applied=AppliedSet())

    def top(self, ledger: Ledger) -> Top:
        """Main's newest revision as the ledger has it."""
        head = ledger.head(self.model)
        return Top(revision=head, applied=ledger.applied(self.model, head.id))

    def genesis(self) -> Revision:
        """The first revision."""
        return Revision.genesis(
            model=self.model,
            model_digest=self.description.digest,
            composition=Composition.GUARDED,
            weights_digest=self.weights(AppliedSet()),
            request_digest=canonical.digest(b"genesis"),
            created_at=now(),
        )

    def edit(self, against: RevisionId) -> tuple[Stored, bytes]:
        """An edit with its report and its patch's payload."""
        self.made += 1
        subject = f"Tower {self.draw.randrange(self.subjects)}"
        payload = self.payload(self.made, subject)
        fact = Fact(template=TEMPLATE, target=self.draw.choice(CITIES))
        edit = Edit(
            id=EditId(f"e-{self.draw.getrandbits(48):012x}"),
            model=self.model,
            request=EditRequest(subject=subject, facts=(fact,)),
            patch=canonical.digest(payload),
            profile=self.profile.id,
            proposer="reliability",
            created_at=now(),
        )
        return Stored(edit=edit, report=self.report(edit, against)), payload

    def report(self, edit: Edit, against: RevisionId) -> Report:
        """A report that passed."""
        return Report(
            model=self.model,
            edit=edit.id,
            patch=edit.patch,
            profile=edit.profile,
            against=against,
            composition=Composition.GUARDED,
            policy=canonical.digest(b"a policy"),
            checks=(
                Check(
                    kind=CheckKind.EFFICACY,
                    verdict=Verdict.PASSED,
                    measured=1.0,
                    threshold=1.0,
                    comparison=">=",
                    explanation="1 of 1 prompts gives the target",
                ),
            ),
            created_at=now(),
        )

    def change(self, top: Top, kind: RevisionKind, edits: Sequence[Stored]) -> Top:
        """The revision that applies or reverts ``edits`` on ``top``; not stored yet."""
        before = top.applied
        after = (
            before.apply(edit.applied for edit in edits)
            if kind is RevisionKind.APPLY
            else before.revert(edit.edit.id for edit in edits)
        )
        superseded, restored = after.shifted_since(before, (edit.applied.subject for edit in edits))
        revision = replace(
            top.revision,
            sequence=top.revision.sequence + 1,
            parent=top.revision.id,
            kind=kind,
            edits=tuple(edit.reference for edit in edits),
            superseded=superseded,
            restored=restored,
            active_count=after.active_count,
            active_set_digest=after.digest(
                model=self.description.digest, composition=Composition.GUARDED
            ),
            weights_digest=self.weights(after),
            request_id=self.request_id(),
            request_digest=canonical.digest(repr([edit.edit.id for edit in edits]).encode()),
            created_at=now(),
        )
        return Top(revision=revision, applied=after)

    def branch(self, top: Top, name: str) -> Top:
        """The first revision of a branch that starts at ``top``; not stored yet."""
        revision = replace(
            top.revision,
            branch=BranchName(name),
            sequence=0,
            parent=top.revision.id,
            kind=RevisionKind.BRANCH,
            edits=(),
            superseded=(),
            restored=(),
            request_id=self.request_id(),
            request_digest=canonical.digest(name.encode()),
            created_at=now(),
        )
        return Top(revision=revision, applied=top.applied)

    def request_id(self) -> RequestId:
        """A request id nobody has used."""
        return RequestId(f"r-{self.draw.getrandbits(64):016x}")
