"""The engine as the use cases see it: `errata_server.service.ports.Engine` over torch."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from jaxtyping import Float
from torch import Tensor

from errata_server.domain.batches import NearSubjects
from errata_server.domain.errors import (
    ErrataError,
    InvalidPatchError,
    ModelMismatchError,
    NotCalibratedError,
)
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
from errata_server.domain.patches import (
    Composition,
    LoadArtifact,
    Patch,
    PatchManifest,
    ServedWeights,
)
from errata_server.domain.profiles import ModelDescription, Profile
from errata_server.domain.traces import (
    AverageTrace,
    CausalTrace,
    LabelledText,
    Proxy,
    ProxyQuestion,
    TraceRequest,
)
from errata_server.engine import answers, batches, inspection, moments
from errata_server.engine.bank import Bank, compose
from errata_server.engine.batches import Batch
from errata_server.engine.blocks import blocks_of
from errata_server.engine.calibrate import calibrate
from errata_server.engine.checkpoint import load_checkpoint, tensors_digest
from errata_server.engine.contexts import contexts_of
from errata_server.engine.crowd import Crowd
from errata_server.engine.keys import require_mentions
from errata_server.engine.locate import table
from errata_server.engine.locate.averages import average_trace
from errata_server.engine.locate.causal import Tracer
from errata_server.engine.locate.corruption import subject_sigma
from errata_server.engine.locate.proxy import ProxyReader, fit_proxy
from errata_server.engine.measure import (
    ask_in_batches,
    continue_in_batches,
    measure,
    rehearse,
    require_room,
)
from errata_server.engine.patch import PatchTensors, decode, encode
from errata_server.engine.recall import Recall
from errata_server.engine.runner import Runner
from errata_server.engine.solve import factor_second_moment
from errata_server.engine.strain import nearest_patches, strains
from errata_server.engine.subjects import SubjectKeys
from errata_server.engine.subjects import collect as collect_subjects
from errata_server.engine.vocabulary import require_trained, untrained_tokens

T = TypeVar("T")

CACHED_PATCHES: Final = 20_000
"""Decoded patches kept in memory; a few KiB to a hundred each."""


def load(
    source: str,
    *,
    cache: Path,
    device: str = "auto",
    dtype: str = "auto",
    texts: Sequence[str] = (),
    subjects: Sequence[str] = (),
) -> "TorchEngine":
    """An engine over the checkpoint at ``source``.

    Args:
        source: A local folder or a hub id.
        cache: Folder for second moments, made where missing.
        device: A torch device, or ``auto``.
        dtype: A torch dtype's name, or ``auto``.
        texts: Ordinary text for second moments.
        subjects: Subjects the model knows; the spread of their embeddings is the unit of a
            causal trace's noise, and those near an edit's subject become its decoys.

    Raises:
        UnsupportedModelError: the checkpoint cannot be loaded or edited.
    """
    runner = Runner(load_checkpoint(source, device=device, dtype=dtype))
    return TorchEngine(runner, cache=cache, texts=tuple(texts), subjects=subjects)


class TorchEngine:
    """A checkpoint with its profile, second moments and decoded patches."""

    def __init__(
        self, runner: Runner, *, cache: Path, texts: tuple[str, ...], subjects: Sequence[str] = ()
    ) -> None:
        self._runner = runner
        self._recall = Recall(runner)
        blocks = blocks_of(runner.checkpoint)
        self._sigma = runner.run(partial(subject_sigma, blocks, runner.tokens, subjects))
        self._subjects = tuple(subjects)
        self._cache = cache
        self._texts = texts
        self._corpus = moments.corpus_digest(texts)
        embeddings = runner.checkpoint.model.get_input_embeddings()
        self._untrained = untrained_tokens(embeddings.get_parameter("weight"))
        self._profile: Profile | None = None
        self._factor: tuple[Profile, Float[Tensor, "d_in d_in"]] | None = None
        self._subject_keys: tuple[Profile, SubjectKeys] | None = None
        self._latest_moment: tuple[int, moments.SecondMoment] | None = None
        self._patches: OrderedDict[Digest, PatchTensors] = OrderedDict()
        self._patches_lock = threading.Lock()
        # Of its own: collecting second moments takes long, and composing must not wait for it.
        self._factoring = threading.RLock()

    def describe(self) -> ModelDescription:
        """See `Engine.describe`."""
        return self._runner.checkpoint.description

    @property
    def profile(self) -> Profile | None:
        """See `Engine.profile`."""
        return self._profile

    def use_profile(self, profile: Profile) -> None:
        """See `Engine.use_profile`."""
        digest = self._runner.checkpoint.digest
        if profile.model_digest != digest:
            raise ModelMismatchError(
                f"the profile was made for checkpoint {profile.model_digest[:12]}, not "
                f"{digest[:12]}; calibrate this model",
                profile_model=profile.model_digest,
                model=digest,
            )
        self._profile = profile

    def base_digest(self) -> Digest:
        """See `Engine.base_digest`."""
        checkpoint = self._runner.checkpoint
        now = self._runner.lane.run(lambda: tensors_digest(checkpoint.model))
        return checkpoint.digest if now == checkpoint.memory_digest else now

    def validate(self, request: EditRequest) -> None:
        """See `Engine.validate`."""
        profile, tokens = self._calibrated(), self._runner.tokens
        contexts_of(tokens, request, profile)
        require_mentions(tokens, request.names, profile.prefixes)
        for fact in request.facts:
            require_trained(tokens, fact.target, self._untrained)

    def require_change(self, request: EditRequest, *, progress: ReportProgress) -> None:
        """See `Engine.require_change`."""
        batches.require_change(self._runner, request, progress=progress)

    def compute_patches(
        self,
        requests: Sequence[EditRequest],
        *,
        held: Sequence[Sequence[str]],
        progress: ReportProgress,
    ) -> Iterator[tuple[int, Patch | ErrataError]]:
        """See `Engine.compute_patches`."""
        for place, found in self._batch(requests, held, progress).compute(progress=progress):
            yield place, encode(found) if isinstance(found, PatchTensors) else found

    def side_by_side(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """See `Engine.side_by_side`."""
        return self._runner.side_by_side(works)

    def near_subjects(
        self, requests: Sequence[EditRequest], *, conflict: float, progress: ReportProgress
    ) -> tuple[NearSubjects, ...]:
        """See `Engine.near_subjects`."""
        batch = self._batch(requests, [()] * len(requests), progress)
        return batch.near_subjects(conflict=conflict, progress=progress)

    def compose(
        self, patches: Sequence[Digest], load: LoadArtifact, composition: Composition
    ) -> ServedWeights:
        """See `Engine.compose`."""
        decoded = [self._decoded(digest, load) for digest in patches]
        bank = compose(decoded, composition, self._runner.device)
        return ServedWeights(
            digest=bank.digest(), patches=tuple(patches), composition=composition, bank=bank
        )

    def inspect_patch(
        self,
        patch: Digest,
        load: LoadArtifact,
        *,
        live: Sequence[tuple[EditId, Digest]],
        neighbours: Sequence[str],
    ) -> PatchInspection:
        """See `Engine.inspect_patch`."""
        decoded = self._decoded(patch, load)
        return inspection.inspect(
            self._recall,
            decoded,
            # The patch's own layer: the profile may have been calibrated again since.
            moment=self._moment(decoded.manifest.layer, _silent),
            moment_texts=self._texts,
            live=[(edit, self._decoded(digest, load)) for edit, digest in live],
            neighbours=neighbours,
        )

    def measure(
        self,
        plan: VerificationPlan,
        *,
        before: ServedWeights,
        after: ServedWeights,
        progress: ReportProgress,
    ) -> Measurements:
        """See `Engine.measure`."""
        return measure(
            self._recall, plan, before=_bank(before), after=_bank(after), progress=progress
        )

    def rehearse(
        self,
        plans: Sequence[VerificationPlan],
        weights: Sequence[ServedWeights],
        *,
        names: Sequence[str],
        progress: ReportProgress,
    ) -> None:
        """See `Engine.rehearse`."""
        rehearse(self._recall, plans, [_bank(one) for one in weights], progress=progress)
        texts = [text for text, _ in inspection.unseen_mentions(names)]
        self._recall.keys(texts, self._calibrated().module)

    def generate(
        self, prompt: str, options: GenerationOptions, weights: ServedWeights
    ) -> Iterator[GeneratedChunk]:
        """See `Engine.generate`."""
        self._runner.tokens.fit(prompt, room=options.max_new_tokens)
        return answers.stream(self._runner, prompt, options, _bank(weights))

    def score(
        self, prompt: str, continuations: Sequence[str], weights: ServedWeights
    ) -> PromptScore:
        """See `Engine.score`."""
        return answers.score(self._runner, prompt, continuations, _bank(weights))

    def require_room(self, prompts: Sequence[CheckPrompt]) -> None:
        """See `Engine.require_room`."""
        require_room(self._runner, prompts)

    def ask(
        self,
        prompts: Sequence[CheckPrompt],
        *,
        before: ServedWeights,
        after: ServedWeights,
        progress: ReportProgress,
    ) -> tuple[Answer, ...]:
        """See `Engine.ask`."""
        return ask_in_batches(
            self._recall, prompts, before=_bank(before), after=_bank(after), progress=progress
        )

    def continue_prompts(
        self,
        prompts: Sequence[str],
        options: GenerationOptions,
        weights: ServedWeights,
        *,
        progress: ReportProgress,
    ) -> tuple[str, ...]:
        """See `Engine.continue_prompts`."""
        bank = _bank(weights)
        return continue_in_batches(self._recall, prompts, options, bank, progress=progress)

    def perplexity(self, texts: Sequence[str], weights: ServedWeights) -> float:
        """See `Engine.perplexity`."""
        return self._recall.perplexity(texts, _bank(weights))

    def strains(self, patches: Sequence[Digest], load: LoadArtifact) -> tuple[LayerStrain, ...]:
        """See `Engine.strains`."""
        return strains(
            self._runner,
            [self._decoded(digest, load) for digest in patches],
            moment=lambda layer: self._moment(layer, _silent),
            texts=self._texts,
        )

    def nearest_patches(
        self, patches: Sequence[Digest], load: LoadArtifact
    ) -> Sequence[tuple[int, float]]:
        """See `Engine.nearest_patches`."""
        return nearest_patches([self._decoded(digest, load) for digest in patches])

    def collect_moments(self, texts: Sequence[str], *, progress: ReportProgress) -> int:
        """See `Engine.collect_moments`."""
        layers = [self._profile.layer] if self._profile else range(self._runner.checkpoint.layers)
        collected = moments.collect(
            self._runner,
            tuple(texts) or self._texts,
            list(layers),
            cache=self._cache,
            progress=progress,
        )
        return next(iter(collected.values())).count

    def calibrate(self, known_facts: KnownFacts, *, seed: int, progress: ReportProgress) -> Profile:
        """See `Engine.calibrate`."""
        return calibrate(
            self._runner,
            known_facts,
            self._texts,
            cache=self._cache,
            seed=seed,
            progress=progress,
        )

    def trace(
        self, request: TraceRequest, weights: ServedWeights, *, progress: ReportProgress
    ) -> CausalTrace:
        """See `Engine.trace`."""
        return self._tracer(weights).trace(request, progress=progress)

    def average_trace(
        self, requests: Sequence[TraceRequest], weights: ServedWeights, *, progress: ReportProgress
    ) -> AverageTrace:
        """See `Engine.average_trace`."""
        return average_trace(self._tracer(weights), requests, progress=progress)

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
        """See `Engine.fit_proxy`."""
        reader = ProxyReader(runner=self._runner, bank=_bank(weights), question=question)
        return fit_proxy(reader, texts, positive=positive, seed=seed, progress=progress)

    def locators(self) -> tuple[Locator, ...]:
        """See `Engine.locators`."""
        return table.locators()

    def locate(
        self,
        request: LocateRequest,
        weights: ServedWeights,
        *,
        known_facts: KnownFacts,
        progress: ReportProgress,
    ) -> Location:
        """See `Engine.locate`."""
        means = table.Means(
            texts=self._texts, known_facts=known_facts, profile=self._profile, cache=self._cache
        )
        return table.locate(self._runner, _bank(weights), request, means=means, progress=progress)

    def close(self) -> None:
        """See `Engine.close`."""
        self._runner.close()

    def _tracer(self, weights: ServedWeights) -> Tracer:
        return Tracer(runner=self._runner, bank=_bank(weights), sigma=self._sigma)

    def _calibrated(self) -> Profile:
        """The profile, made over the very text this engine takes second moments from."""
        if self._profile is None:
            raise NotCalibratedError(
                "this model has no profile yet; run `errata-server calibrate` or `errata "
                "calibrate` first",
                model=self._runner.checkpoint.source,
            )
        if self._profile.moment_corpus != self._corpus:
            raise NotCalibratedError(
                "the profile was calibrated over other texts than this server has; give it the "
                "same --texts, or calibrate it on these",
                profile=self._profile.id,
                profile_corpus=self._profile.moment_corpus,
                corpus=self._corpus,
            )
        return self._profile

    def _batch(
        self,
        requests: Sequence[EditRequest],
        held: Sequence[Sequence[str]],
        progress: ReportProgress,
    ) -> Batch:
        profile = self._calibrated()
        return Batch(
            runner=self._runner,
            profile=profile,
            factor=self._second_moment_factor(profile, progress),
            requests=requests,
            held=held,
            crowd=Crowd(
                moment=self._moment(profile.layer, progress),
                texts=self._texts,
                known=self._known_subjects(profile, progress),
            ),
        )

    def _moment(self, layer: int, progress: ReportProgress) -> moments.SecondMoment:
        """The second moment at ``layer``; that of one layer, which all edits share, is kept."""
        with self._factoring:
            latest = self._latest_moment
            if latest is None or latest[0] != layer:
                found = moments.collect(
                    self._runner, self._texts, [layer], cache=self._cache, progress=progress
                )
                latest = self._latest_moment = (layer, found[layer])
            return latest[1]

    def _second_moment_factor(
        self, profile: Profile, progress: ReportProgress
    ) -> Float[Tensor, "d_in d_in"]:
        with self._factoring:
            if self._factor is None or self._factor[0] != profile:
                mean = self._moment(profile.layer, progress).mean()
                self._factor = (profile, factor_second_moment(mean, profile.ridge))
            return self._factor[1]

    def _known_subjects(self, profile: Profile, progress: ReportProgress) -> SubjectKeys:
        with self._factoring:
            if self._subject_keys is None or self._subject_keys[0] != profile:
                found = collect_subjects(
                    self._runner, self._subjects, profile, cache=self._cache, progress=progress
                )
                self._subject_keys = (profile, found)
            return self._subject_keys[1]

    def _decoded(self, digest: Digest, load: LoadArtifact) -> PatchTensors:
        with self._patches_lock:
            cached = self._patches.get(digest)
        if cached is not None:
            return cached
        decoded = decode(load(digest), model=self._runner.checkpoint.digest)
        self._check_place(decoded.manifest)
        with self._patches_lock:
            self._patches[digest] = decoded
            while len(self._patches) > CACHED_PATCHES:
                self._patches.popitem(last=False)
        return decoded

    def _check_place(self, manifest: PatchManifest) -> None:
        """Refuse a patch whose module or widths are not this model's."""
        description = self.describe()
        expected = (
            self._runner.checkpoint.projection_path(manifest.layer),
            description.d_in,
            description.d_model,
        )
        found = (manifest.module, manifest.d_in, manifest.d_out)
        if found != expected or not 0 <= manifest.layer < description.layers:
            raise InvalidPatchError(
                f"the patch for {manifest.subject!r} is for {manifest.module} "
                f"({manifest.d_in} to {manifest.d_out}); layer {manifest.layer} of this model "
                f"is {expected[0]} ({expected[1]} to {expected[2]})",
                module=manifest.module,
            )


def _bank(weights: ServedWeights) -> Bank:
    if not isinstance(weights.bank, Bank):
        raise TypeError("these weights were composed by another engine")
    return weights.bank


def _silent(_: object) -> None:
    """Progress nobody follows."""
