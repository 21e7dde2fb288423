"""The one port: what the use cases ask of an engine.

The real engine is `errata_server.engine.engine.TorchEngine`; tests use the scripted one in
``tests/support``. Every method may be called from any thread and blocks until done; the
engine itself lets only its model thread touch tensors, and yields between the steps of
long work so that generation goes on.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from errata_server.domain.facts import EditRequest
from errata_server.domain.generation import GeneratedChunk, GenerationOptions, PromptScore
from errata_server.domain.ids import Digest, EditId
from errata_server.domain.known_facts import KnownFacts
from errata_server.domain.locators import LocateRequest, Location, Locator
from errata_server.domain.measurements import (
    Measurements,
    PatchInspection,
    VerificationPlan,
)
from errata_server.domain.operations import ReportProgress
from errata_server.domain.patches import Composition, LoadArtifact, Patch, ServedWeights
from errata_server.domain.profiles import ModelDescription, Profile
from errata_server.domain.traces import (
    AverageTrace,
    CausalTrace,
    LabelledText,
    Proxy,
    ProxyQuestion,
    TraceRequest,
)


class Engine(Protocol):
    """A loaded base model and everything errata does with its tensors."""

    def describe(self) -> ModelDescription:
        """The checkpoint as loaded."""
        ...

    @property
    def profile(self) -> Profile | None:
        """The profile edits are computed with, if there is one."""
        ...

    def use_profile(self, profile: Profile) -> None:
        """Compute edits with ``profile`` from now on.

        Raises:
            ModelMismatchError: it was made for another checkpoint.
        """
        ...

    def validate(self, request: EditRequest) -> None:
        """Refuse a request this model cannot take, before any work is done.

        Raises:
            NotCalibratedError: there is no profile.
            SubjectNotFoundError: the tokens of the subject cannot be told apart.
            InvalidFactError: a target has no tokens, or holds a special or an untrained one.
            PromptTooLongError: a prompt with its prefixes does not fit the context.
            AlreadyTrueError: the base model gives every target already.
        """
        ...

    def compute_patch(self, request: EditRequest, *, progress: ReportProgress) -> Patch:
        """Compute keys and value of an edit against the base model.

        Raises:
            NoEffectError: the edit would change nothing.
            CancelledError: ``progress`` asked for it.
            (and everything `validate` raises)
        """
        ...

    def compose(
        self, patches: Sequence[Digest], load: LoadArtifact, composition: Composition
    ) -> ServedWeights:
        """The base model with ``patches`` live, in the order given.

        Raises:
            InvalidPatchError: an artifact is not a finite patch for this model.
            ModelMismatchError: an artifact was computed against another checkpoint.
        """
        ...

    def inspect_patch(
        self,
        patch: Digest,
        load: LoadArtifact,
        *,
        live: Sequence[tuple[EditId, Digest]],
        neighbours: Sequence[str],
    ) -> PatchInspection:
        """Look at a patch's keys and guard; ``neighbours`` are prompts."""
        ...

    def measure(
        self,
        plan: VerificationPlan,
        *,
        before: ServedWeights,
        after: ServedWeights,
        progress: ReportProgress,
    ) -> Measurements:
        """Ask every prompt of ``plan`` before and after.

        Raises:
            CancelledError: ``progress`` asked for it.
        """
        ...

    def generate(
        self, prompt: str, options: GenerationOptions, weights: ServedWeights
    ) -> Iterator[GeneratedChunk]:
        """Continue ``prompt`` at ``weights``; close the iterator to stop early.

        Raises:
            PromptTooLongError: prompt and continuation do not fit the context.
        """
        ...

    def score(
        self, prompt: str, continuations: Sequence[str], weights: ServedWeights
    ) -> PromptScore:
        """Log-probabilities of ``continuations`` after ``prompt``.

        Raises:
            PromptTooLongError: prompt and continuation do not fit the context.
        """
        ...

    def collect_moments(self, texts: Sequence[str], *, progress: ReportProgress) -> int:
        """Accumulate the second moment over ``texts``; the number of tokens seen in all.

        At the profile's layer, or at every layer where there is no profile. Resumes where
        an earlier call over the same texts was cut off.
        """
        ...

    def calibrate(self, known_facts: KnownFacts, *, seed: int, progress: ReportProgress) -> Profile:
        """Find a profile by editing facts the model knows.

        Raises:
            NotCalibratedError: too few of ``known_facts`` are known to the model.
        """
        ...

    def trace(
        self, request: TraceRequest, weights: ServedWeights, *, progress: ReportProgress
    ) -> CausalTrace:
        """Trace one prompt exactly.

        Raises:
            SubjectNotFoundError: the prompt does not name the subject.
            PromptTooLongError: prompt and answer do not fit the context.
            InvalidInputError: a replacement has another number of tokens, and the like.
            UnsupportedModelError: this family's blocks are not in the table.
            CancelledError: ``progress`` asked for it.
        """
        ...

    def average_trace(
        self, requests: Sequence[TraceRequest], weights: ServedWeights, *, progress: ReportProgress
    ) -> AverageTrace:
        """Trace many prompts and average their indirect effects over the roles of tokens.

        Facts whose answer is not what the model says are dropped, as in the literature.

        Raises:
            InvalidInputError: no fact is left.
            CancelledError: ``progress`` asked for it.
        """
        ...

    def fit_proxy(
        self,
        texts: Sequence[LabelledText],
        question: ProxyQuestion,
        weights: ServedWeights,
        *,
        positive: str,
        seed: int,
        progress: ReportProgress,
    ) -> Proxy:
        """Fit a classifier on what the model says at the end of ``texts``.

        Raises:
            InvalidInputError: there are not two labels, or too few texts of one.
            PromptTooLongError: a text with its suffix does not fit the context.
            CancelledError: ``progress`` asked for it.
        """
        ...

    def locators(self) -> tuple[Locator, ...]:
        """Every locator but the causal trace."""
        ...

    def locate(
        self,
        request: LocateRequest,
        weights: ServedWeights,
        *,
        known_facts: KnownFacts,
        progress: ReportProgress,
    ) -> Location:
        """Ask one locator about one fact.

        Raises:
            NotFoundError: there is no locator of that name.
            InvalidInputError: an option is unknown or out of range.
            SubjectNotFoundError: the prompt does not name the subject.
            PromptTooLongError: the prompt does not fit the context.
            NotCalibratedError: the locator edits, and the model has no profile.
            CancelledError: ``progress`` asked for it.
        """
        ...

    def base_digest(self) -> Digest:
        """The checkpoint's digest, taken again from the tensors in memory.

        It is `describe`'s digest exactly if no base weight has changed since loading.
        """
        ...

    def close(self) -> None:
        """Stop the model thread."""
        ...
