"""The one port: what the use cases ask of an engine.

The real engine is `errata_server.engine.engine.TorchEngine`; tests use the scripted one in
``tests/support``. Every method may be called from any thread and blocks until done; the
engine itself lets only its model threads touch tensors, and yields between the steps of
long work so that generation goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from errata_server.domain.batches import NearSubjects
from errata_server.domain.errors import ErrataError
from errata_server.domain.facts import CheckPrompt, EditRequest
from errata_server.domain.generation import GeneratedChunk, GenerationOptions, PromptScore
from errata_server.domain.health import LayerStrain
from errata_server.domain.ids import Digest, EditId
from errata_server.domain.known_facts import KnownFacts
from errata_server.domain.locators import LocateRequest, Location, Locator
from errata_server.domain.measurements import (
    Answer,
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

T = TypeVar("T")


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
        """
        ...

    def require_change(self, request: EditRequest, *, progress: ReportProgress) -> None:
        """Do nothing if ``request`` asks for anything the base model does not say.

        Raises:
            AlreadyTrueError: it gives every target already.
            CancelledError: ``progress`` asked for it.
        """
        ...

    def compute_patches(
        self,
        requests: Sequence[EditRequest],
        *,
        held: Sequence[Sequence[str]],
        progress: ReportProgress,
    ) -> Iterator[tuple[int, Patch | ErrataError]]:
        """Compute keys and values of edits against the base model, in shared passes.

        Gives each edit's place in ``requests`` with its patch, as they are found, or with why
        there is none: AlreadyTrueError, NoEffectError, and all that `validate` raises.

        Args:
            requests: The edits, each of a subject of its own.
            held: For each of them, prompts about its subject whose answers are to stay.
            progress: Told of every step.

        Raises:
            NotCalibratedError: there is no profile.
            CancelledError: ``progress`` asked for it.
        """
        ...

    def side_by_side(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """Carry out ``works``, which call this engine, several at once where that is faster.

        Gives what they return, in order. Each runs in the caller's context.

        Raises:
            Exception: the first error of one of them, once all that were begun have ended; no
                other is begun after it.
        """
        ...

    def near_subjects(
        self, requests: Sequence[EditRequest], *, conflict: float, progress: ReportProgress
    ) -> tuple[NearSubjects, ...]:
        """Pairs of ``requests`` whose keys conflict more than that, or fire on each other.

        Raises:
            CancelledError: ``progress`` asked for it.
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

    def rehearse(
        self,
        plans: Sequence[VerificationPlan],
        weights: Sequence[ServedWeights],
        *,
        names: Sequence[str],
        progress: ReportProgress,
    ) -> None:
        """Ask what `measure` and `inspect_patch` will ask about ``plans``, in shared passes.

        Nothing but time changes: they give what they would have given.

        Args:
            plans: Of the edits that will be measured.
            weights: What they are measured with.
            names: Those the edits' patches know.
            progress: Told of every step.

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

    def require_room(self, prompts: Sequence[CheckPrompt]) -> None:
        """Do nothing if each of ``prompts`` can be asked beside the others.

        Raises:
            PromptTooLongError: one does not fit the context with room for the longest answer.
        """
        ...

    def ask(
        self,
        prompts: Sequence[CheckPrompt],
        *,
        before: ServedWeights,
        after: ServedWeights,
        progress: ReportProgress,
    ) -> tuple[Answer, ...]:
        """The answers to ``prompts`` at two weights, by greedy free generation.

        Raises:
            PromptTooLongError: a prompt does not fit the context.
            CancelledError: ``progress`` asked for it.
        """
        ...

    def continue_prompts(
        self,
        prompts: Sequence[str],
        options: GenerationOptions,
        weights: ServedWeights,
        *,
        progress: ReportProgress,
    ) -> tuple[str, ...]:
        """What the model says after each of ``prompts``, asked together.

        Raises:
            PromptTooLongError: prompt and continuation do not fit the context.
            CancelledError: ``progress`` asked for it.
        """
        ...

    def perplexity(self, texts: Sequence[str], weights: ServedWeights) -> float:
        """exp of the mean negative log-likelihood a token; 1 where there is no text."""
        ...

    def strains(self, patches: Sequence[Digest], load: LoadArtifact) -> tuple[LayerStrain, ...]:
        """What ``patches`` together do to ordinary keys, by layer."""
        ...

    def nearest_patches(
        self, patches: Sequence[Digest], load: LoadArtifact
    ) -> Sequence[tuple[int, float]]:
        """For each patch the place of the other it conflicts with most, and that conflict.

        -1 and 0 where there is no other.
        """
        ...

    def collect_moments(self, texts: Sequence[str], *, progress: ReportProgress) -> int:
        """Accumulate the second moment over ``texts``; the number of tokens seen in all.

        At the profile's layer, or at every layer where there is no profile. Resumes where
        an earlier call over the same texts was cut off.
        """
        ...

    def calibrate(self, known_facts: KnownFacts, *, seed: int, progress: ReportProgress) -> Profile:
        """Find a profile by editing facts the model knows; `use_profile` begins to use it.

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
        """Stop the model's threads."""
        ...
