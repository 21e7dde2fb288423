"""The one double: an engine whose model is a table of answers.

Everything else in the tests is real. A patch here is a small real safetensors payload that
carries its request, so that `ScriptedEngine` answers from what was stored, not from memory
of what it was told. Switches make it fail checks, go slowly, or break in a named method.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import numpy as np
from safetensors.numpy import load, save

from errata_server.domain import canonical
from errata_server.domain.answers import begins_with
from errata_server.domain.batches import NearSubjects
from errata_server.domain.checks import CheckKind
from errata_server.domain.errors import (
    AlreadyTrueError,
    ErrataError,
    InvalidPatchError,
    ModelMismatchError,
    NotCalibratedError,
)
from errata_server.domain.facts import EditRequest
from errata_server.domain.generation import (
    GeneratedChunk,
    GenerationOptions,
    PromptScore,
)
from errata_server.domain.ids import Digest, EditId
from errata_server.domain.known_facts import KnownFacts
from errata_server.domain.measurements import (
    Measurements,
    PatchInspection,
    VerificationPlan,
)
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.domain.patches import (
    Composition,
    LoadArtifact,
    OptimisationRecord,
    Patch,
    PatchManifest,
    ServedWeights,
)
from errata_server.domain.payloads import MANIFEST_KEY, read_manifest
from errata_server.domain.profiles import ModelDescription, Profile
from tests.support.scripted_traces import LAYERS, ScriptedTraces
from tests.support.scripted_upkeep import (
    CONTEXT,
    LiveAnswers,
    ScriptedPatch,
    ScriptedUpkeep,
    fit_context,
    overlap_of,
    perplexity_of,
    score_of,
)

T = TypeVar("T")

UNKNOWN: Final = "something nobody knows"
"""What the model says to a prompt that is not in its table."""


def answers_of(known: KnownFacts) -> dict[str, str]:
    """Every known fact asked with every template of its relation."""
    return {
        known.prompt(fact, index): fact.object
        for fact in known.facts
        for index in range(len(known.templates[fact.relation]))
    }


@dataclass(slots=True)
class ScriptedEngine(ScriptedTraces, ScriptedUpkeep):
    """Implements `errata_server.service.ports.Engine` over a table of answers.

    A live patch changes the answer to its own prompts, behind any text, and to prompts that
    name its subject and had the same answer before (a paraphrase has).
    """

    base: dict[str, str]
    """Prompt to answer; a longer text gets the answer of the longest prompt it ends with."""

    profile: Profile | None = None
    faults: set[CheckKind] = field(default_factory=set)
    """Checks that patches computed from now on will fail."""

    breaks: dict[str, Exception] = field(default_factory=dict)
    """Method name to the error it raises."""

    interludes: dict[str, Callable[[], object]] = field(default_factory=dict)
    """Method name to what happens, once, while it runs: how tests interleave two servers."""

    step_seconds: float = 0.0
    steps: int = 3
    """Progress reports a long method makes."""

    reached: threading.Event = field(default_factory=threading.Event)
    """Set when a long method has made its first step."""

    resume: threading.Event = field(default_factory=threading.Event)
    """Long methods wait here after the first step; set unless a test clears it."""

    streams: int = 1
    """Works that go on at once."""

    calls: list[str] = field(default_factory=list)
    held: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The prompts that were to stay, by the subject of the edit."""

    continued: list[tuple[str, ...]] = field(default_factory=list)
    """The prompts of every call that had some continued."""

    _loaded: Digest = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.resume.set()
        self._loaded = self.base_digest()
        if self.profile is None:
            self.profile = scripted_profile(self._loaded)

    def uncalibrate(self) -> None:
        """Forget the profile, as on the first start."""
        self.profile = None

    def describe(self) -> ModelDescription:
        return ModelDescription(
            digest=self._loaded,
            source="scripted",
            architecture="scripted",
            layers=LAYERS,
            d_model=4,
            d_in=8,
            vocabulary=100,
            context=CONTEXT,
            parameters=1_000,
            dtype="float32",
            device="cpu",
        )

    def base_digest(self) -> Digest:
        return canonical.digest(canonical.encode(self.base))

    def use_profile(self, profile: Profile) -> None:
        self._enter("use_profile")
        if profile.model_digest != self._loaded:
            raise ModelMismatchError("the profile belongs to another checkpoint")
        self.profile = profile

    def validate(self, request: EditRequest) -> None:
        self._enter("validate")
        self._require_profile()
        for fact in request.facts:
            fit_context(fact.prompt(request.subject))

    def require_change(self, request: EditRequest, *, progress: ReportProgress) -> None:
        self._enter("require_change")
        self._work("base answers", progress)
        if self._is_true(request):
            raise AlreadyTrueError("the model says so already", field="facts")

    def compute_patches(
        self,
        requests: Sequence[EditRequest],
        *,
        held: Sequence[Sequence[str]],
        progress: ReportProgress,
    ) -> Iterator[tuple[int, Patch | ErrataError]]:
        assert len(held) == len(requests)
        for place, request in enumerate(requests):
            self._enter("compute_patches")
            self.held[request.subject] = tuple(held[place])
            profile = self._require_profile()
            self._work("values", progress)
            if self._is_true(request):
                yield place, AlreadyTrueError("the model says so already", field="facts")
            else:
                yield place, self._patch(request, profile)

    def side_by_side(self, works: Sequence[Callable[[], T]]) -> list[T]:
        if self.streams == 1:
            return [work() for work in works]
        with ThreadPoolExecutor(self.streams) as pool:
            ends = [pool.submit(copy_context().run, work) for work in works]
            wait(ends, return_when=FIRST_EXCEPTION)
            begun = [end for end in ends if not end.cancel()]
        return [end.result() for end in begun]

    def near_subjects(
        self, requests: Sequence[EditRequest], *, conflict: float, progress: ReportProgress
    ) -> tuple[NearSubjects, ...]:
        self._enter("near_subjects")
        self._work("keys", progress)
        patches = [ScriptedPatch(request=one, faults=frozenset()) for one in requests]
        return tuple(
            NearSubjects(
                first=first,
                second=second,
                conflict=overlap,
                first_fires=requests[first].subject in requests[second].subject,
                second_fires=requests[second].subject in requests[first].subject,
            )
            for first in range(len(requests))
            for second in range(first + 1, len(requests))
            if (overlap := overlap_of(patches[first], patches[second])) > conflict
        )

    def _is_true(self, request: EditRequest) -> bool:
        answers = ((self._say(f.prompt(request.subject), ()), f.target) for f in request.facts)
        return all(begins_with(answer, target) for answer, target in answers)

    def _patch(self, request: EditRequest, profile: Profile) -> Patch:
        manifest = self._manifest(request, profile)
        story = {"request": request.to_json(), "faults": sorted(self.faults)}
        payload = save(
            {
                "keys": _vector(request.subject, profile.d_in)[None, :],
                "value": _vector(repr(request.facts), profile.d_out),
                "story": np.frombuffer(canonical.encode(story), dtype=np.uint8).copy(),
            },
            metadata={MANIFEST_KEY: manifest.body.decode()},
        )
        return Patch(manifest=manifest, payload=payload)

    def compose(
        self, patches: Sequence[Digest], load: LoadArtifact, composition: Composition
    ) -> ServedWeights:
        self._enter("compose")
        bank = tuple(self._read(load(digest)) for digest in patches)
        body = {"patches": list(patches), "composition": composition}
        return ServedWeights(
            digest=canonical.digest(canonical.encode(body)),
            patches=tuple(patches),
            composition=composition,
            bank=bank,
        )

    def inspect_patch(
        self,
        patch: Digest,
        load: LoadArtifact,
        *,
        live: Sequence[tuple[EditId, Digest]],
        neighbours: Sequence[str],
    ) -> PatchInspection:
        self._enter("inspect_patch")
        mine = self._read(load(patch))
        faults = mine.faults
        own = 0.0 if CheckKind.RECOGNITION in faults else 1.0
        conflicts = sorted(
            ((edit, overlap_of(mine, self._read(load(digest)))) for edit, digest in live),
            key=lambda pair: -pair[1],
        )
        return PatchInspection(
            finite=CheckKind.FINITE not in faults,
            own_matches=tuple((f"Today, {mine.request.subject}", own) for _ in range(4)),
            corpus_firings=10 if CheckKind.SELECTIVITY in faults else 0,
            corpus_keys=1_000,
            neighbour_matches=tuple((prompt, 0.0) for prompt in neighbours),
            conflicts=tuple(conflicts),
            fires_on_live=(),
        )

    def measure(
        self,
        plan: VerificationPlan,
        *,
        before: ServedWeights,
        after: ServedWeights,
        progress: ReportProgress,
    ) -> Measurements:
        self._enter("measure")
        self._work("checks", progress)
        faults = _newest_faults(before, after)
        live = LiveAnswers(self, before, after)
        return Measurements(
            efficacy=live.ask(plan.efficacy, spoilt=CheckKind.EFFICACY in faults),
            paraphrases=live.ask(plan.paraphrases, spoilt=CheckKind.PARAPHRASE in faults),
            neighbours=live.ask(plan.neighbours, spoilt=CheckKind.NEIGHBOURHOOD in faults),
            prefixed_neighbours=live.ask(
                plan.prefixed_neighbours, spoilt=CheckKind.PREFIXED_NEIGHBOURHOOD in faults
            ),
            same_subject=live.ask(plan.same_subject, spoilt=CheckKind.SAME_SUBJECT in faults),
            live_facts=tuple(
                replace(answer, edit=fact.edit)
                for fact in plan.live_facts
                for answer in live.ask((fact.prompt,), spoilt=CheckKind.LIVE_EDITS in faults)
            ),
            neighbour_divergence=0.9 if CheckKind.NEIGHBOUR_DIVERGENCE in faults else 0.0,
            entropy_before=5.0,
            entropy_after=2.0 if CheckKind.FLUENCY in faults else 5.0,
            perplexity_base=20.0 if plan.drift_texts else 0.0,
            perplexity_before=20.0 if plan.drift_texts else 0.0,
            perplexity_after=perplexity_of(faults) if plan.drift_texts else 0.0,
            suite=live.ask(plan.suite, spoilt=CheckKind.SUITE in faults),
        )

    def rehearse(
        self,
        plans: Sequence[VerificationPlan],
        weights: Sequence[ServedWeights],
        *,
        names: Sequence[str],
        progress: ReportProgress,
    ) -> None:
        self._enter("rehearse")

    def generate(
        self, prompt: str, options: GenerationOptions, weights: ServedWeights
    ) -> Iterator[GeneratedChunk]:
        self._enter("generate")
        fit_context(prompt, options.max_new_tokens)
        return self._stream(prompt, options, weights)

    def score(
        self, prompt: str, continuations: Sequence[str], weights: ServedWeights
    ) -> PromptScore:
        self._enter("score")
        fit_context(prompt)
        answer = self.answer(prompt, weights)
        return PromptScore(
            scores=tuple(score_of(text, answer) for text in continuations),
            logits_digest=canonical.digest(f"{prompt}\n{answer}".encode()),
        )

    def collect_moments(self, texts: Sequence[str], *, progress: ReportProgress) -> int:
        self._enter("collect_moments")
        self._work("moments", progress)
        return sum(len(text.split()) for text in texts)

    def calibrate(self, known_facts: KnownFacts, *, seed: int, progress: ReportProgress) -> Profile:
        self._enter("calibrate")
        self._work("sweep", progress)
        if not known_facts.facts:
            raise NotCalibratedError("the model knows too few of the facts")
        return scripted_profile(self._loaded, seed=seed)

    def close(self) -> None:
        self._enter("close")

    def answer(self, prompt: str, weights: ServedWeights) -> str:
        """What the model says to ``prompt`` at ``weights``."""
        bank = weights.bank
        assert isinstance(bank, tuple)
        return self._say(prompt, bank)

    def fit(self, prompt: str) -> None:
        fit_context(prompt)

    def _say(self, prompt: str, bank: tuple[ScriptedPatch, ...]) -> str:
        asked = _ending(prompt, self.base)
        base = self.base.get(asked, UNKNOWN)
        for patch in bank:
            request = patch.request
            for fact in request.facts:
                own = fact.prompt(request.subject)
                known = self.base.get(_ending(own, self.base))
                if prompt.endswith(own) or (request.subject in asked and base == known):
                    return fact.target
        return base

    def _stream(
        self, prompt: str, options: GenerationOptions, weights: ServedWeights
    ) -> Iterator[GeneratedChunk]:
        words = f"{self.answer(prompt, weights)} and so it goes on".split()
        for count, word in enumerate(words[: options.max_new_tokens], start=1):
            time.sleep(self.step_seconds)
            try:
                yield GeneratedChunk(text=f" {word}", tokens=count)
            except GeneratorExit:
                self.calls.append("generation closed")
                raise
        finish = "length" if len(words) > options.max_new_tokens else "stop"
        yield GeneratedChunk(
            text="", tokens=min(len(words), options.max_new_tokens), finish_reason=finish
        )

    def _enter(self, method: str) -> None:
        self.calls.append(method)
        self.interludes.pop(method, _nothing)()
        if method in self.breaks:
            raise self.breaks[method]

    def _work(self, stage: str, progress: ReportProgress) -> None:
        for step in range(1, self.steps + 1):
            time.sleep(self.step_seconds)
            progress(Progress(stage=stage, done=step, total=self.steps))
            self.reached.set()
            while not self.resume.wait(0.01):
                progress(Progress(stage=stage, done=step, total=self.steps, note="held"))

    def _require_profile(self) -> Profile:
        if self.profile is None:
            raise NotCalibratedError("the model has no profile; run `errata-server calibrate`")
        return self.profile

    def _read(self, payload: bytes) -> ScriptedPatch:
        manifest = read_manifest(payload)
        if manifest.model_digest != self._loaded:
            raise ModelMismatchError("the patch was computed against another checkpoint")
        tensors = load(payload)
        if "story" not in tensors:
            raise InvalidPatchError("the artifact holds no story")
        story = json.loads(tensors["story"].tobytes())
        return ScriptedPatch(
            request=EditRequest.from_json(story["request"]),
            faults=frozenset(CheckKind(name) for name in story["faults"]),
        )

    def _manifest(self, request: EditRequest, profile: Profile) -> PatchManifest:
        converged = CheckKind.CONVERGED not in self.faults
        stuck = CheckKind.CLAMP in self.faults
        return PatchManifest(
            model_digest=self._loaded,
            profile=profile.id,
            module=profile.module,
            layer=profile.layer,
            d_in=profile.d_in,
            d_out=profile.d_out,
            subject=request.subject,
            aliases=request.aliases,
            keys=1,
            leverages=(1.0,),
            guard_width=profile.guard_width,
            optimisation=OptimisationRecord(
                steps=12,
                restarts=0,
                loss=0.1,
                target_probability=0.97 if converged else 0.2,
                converged=converged and not stuck,
                residual_norm=1.0,
                clamp_fraction=1.0 if stuck else 0.4,
                key_agreement=0.9,
            ),
        )


def _nothing() -> None:
    pass


def scripted_profile(model: Digest, *, seed: int = 0) -> Profile:
    """A profile such as calibration would give."""
    return Profile(
        model_digest=model,
        layer=1,
        module="h.1.mlp.c_proj",
        d_in=8,
        d_out=4,
        prefixes=("", "The weather was fine.", "He said so twice.", "In the end it rained."),
        learning_rate=0.5,
        clamp=4.0,
        max_steps=25,
        kl_weight=0.06,
        decay_weight=0.5,
        stop_probability=0.95,
        guard_width=0.3,
        ridge=0.01,
        moment_corpus=canonical.digest(b"corpus"),
        moment_tokens=10_000,
        sequence_length=64,
        mean_value_norm=1.0,
        seed=seed,
    )


def _ending(prompt: str, table: dict[str, str]) -> str:
    """The longest prompt in ``table`` that ``prompt`` ends with; empty if there is none."""
    return max((known for known in table if prompt.endswith(known)), key=len, default="")


def _vector(text: str, size: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def _newest_faults(before: ServedWeights, after: ServedWeights) -> frozenset[CheckKind]:
    """Faults of the patches that are live after and were not before."""
    assert isinstance(after.bank, tuple)
    fresh = (
        patch
        for digest, patch in zip(after.patches, after.bank, strict=True)
        if digest not in before.patches
    )
    return frozenset(fault for patch in fresh for fault in patch.faults)
