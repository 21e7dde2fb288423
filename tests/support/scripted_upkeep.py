"""What the scripted engine says of all that is live: conflicts, strain, drift, many prompts.

Faults of the patches decide: one that fails `PERPLEXITY` drifts, one that fails `LIVE_EDITS` no
longer gives its target when live edits are asked again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from errata_server.domain.answers import begins_with
from errata_server.domain.checks import CheckKind
from errata_server.domain.errors import PromptTooLongError
from errata_server.domain.facts import CheckPrompt, EditRequest
from errata_server.domain.generation import ContinuationScore, GenerationOptions
from errata_server.domain.health import LayerStrain
from errata_server.domain.ids import Digest
from errata_server.domain.measurements import Answer
from errata_server.domain.operations import ReportProgress
from errata_server.domain.patches import LoadArtifact, ServedWeights
from errata_server.domain.profiles import Profile

CONTEXT: Final = 64
"""Words a prompt and its continuation may have."""


@dataclass(frozen=True, slots=True)
class ScriptedPatch:
    """What a composed patch does: its subject's prompts give other answers."""

    request: EditRequest
    faults: frozenset[CheckKind]


class Answering(Protocol):
    """An engine that says something to any prompt."""

    def answer(self, prompt: str, weights: ServedWeights) -> str: ...


class ScriptedUpkeep:
    """The part of the scripted engine that is about many edits at once."""

    __slots__ = ()

    continued: list[tuple[str, ...]]

    def answer(self, prompt: str, weights: ServedWeights) -> str:
        raise NotImplementedError

    def _enter(self, method: str) -> None:
        raise NotImplementedError

    def _work(self, stage: str, progress: ReportProgress) -> None:
        raise NotImplementedError

    def _require_profile(self) -> Profile:
        raise NotImplementedError

    def _read(self, payload: bytes) -> ScriptedPatch:
        raise NotImplementedError

    def require_room(self, prompts: Sequence[CheckPrompt]) -> None:
        for prompt in prompts:
            fit_context(prompt.prompt, len(prompt.expected.split()))

    def ask(
        self,
        prompts: Sequence[CheckPrompt],
        *,
        before: ServedWeights,
        after: ServedWeights,
        progress: ReportProgress,
    ) -> tuple[Answer, ...]:
        self._enter("ask")
        self._work("questions", progress)
        live = LiveAnswers(self, before, after)
        assert isinstance(after.bank, tuple)
        broken = [
            patch.request.subject for patch in after.bank if CheckKind.LIVE_EDITS in patch.faults
        ]
        return tuple(
            answer
            for prompt in prompts
            for answer in live.ask((prompt,), spoilt=any(name in prompt.prompt for name in broken))
        )

    def continue_prompts(
        self,
        prompts: Sequence[str],
        options: GenerationOptions,
        weights: ServedWeights,
        *,
        progress: ReportProgress,
    ) -> tuple[str, ...]:
        self._enter("continue_prompts")
        self._work("questions", progress)
        self.continued.append(tuple(prompts))
        for prompt in prompts:
            fit_context(prompt, options.max_new_tokens)
        return tuple(f" {self.answer(prompt, weights)}. It goes on" for prompt in prompts)

    def perplexity(self, texts: Sequence[str], weights: ServedWeights) -> float:
        self._enter("perplexity")
        assert isinstance(weights.bank, tuple)
        return perplexity_of(frozenset(f for patch in weights.bank for f in patch.faults))

    def strains(self, patches: Sequence[Digest], load: LoadArtifact) -> tuple[LayerStrain, ...]:
        self._enter("strains")
        profile = self._require_profile() if patches else None
        faults = [patch.faults for patch in map(self._read, map(load, patches))]
        return tuple(
            LayerStrain(
                layer=found.layer,
                module=found.module,
                live_edits=len(patches),
                keys=len(patches),
                width=found.d_in,
                firings=sum(20 for fault in faults if CheckKind.SELECTIVITY in fault),
                ordinary_keys=1_000,
                disturbance=0.001 * len(patches),
            )
            for found in ([profile] if profile is not None else [])
        )

    def nearest_patches(
        self, patches: Sequence[Digest], load: LoadArtifact
    ) -> Sequence[tuple[int, float]]:
        self._enter("nearest_patches")
        found = [self._read(load(digest)) for digest in patches]
        rows = (
            [
                (overlap_of(mine, other), -place)
                for place, other in enumerate(found)
                if other != mine
            ]
            for mine in found
        )
        return [(-max(row)[1], max(row)[0]) if row else (-1, 0.0) for row in rows]


@dataclass(frozen=True, slots=True)
class LiveAnswers:
    """Asks the same prompts before and after."""

    engine: Answering
    before: ServedWeights
    after: ServedWeights

    def ask(self, prompts: Sequence[CheckPrompt], *, spoilt: bool) -> tuple[Answer, ...]:
        return tuple(self._ask(prompt, spoilt=spoilt) for prompt in prompts)

    def _ask(self, prompt: CheckPrompt, *, spoilt: bool) -> Answer:
        before = self.engine.answer(prompt.prompt, self.before)
        after = "spoilt" if spoilt else self.engine.answer(prompt.prompt, self.after)
        return Answer(
            prompt=prompt.prompt,
            expected=prompt.expected,
            before=before,
            after=after,
            held_before=begins_with(before, prompt.expected),
            held_after=begins_with(after, prompt.expected),
        )


def fit_context(prompt: str, new_words: int = 1) -> None:
    if len(prompt.split()) + new_words > CONTEXT:
        raise PromptTooLongError("the prompt does not fit the context", limit=CONTEXT)


def overlap_of(a: ScriptedPatch, b: ScriptedPatch) -> float:
    """Cosine stand-in: subjects that share a word lie close."""
    shared = set(a.request.subject.split()) & set(b.request.subject.split())
    return 0.5 if shared else 0.01


def perplexity_of(faults: frozenset[CheckKind]) -> float:
    if CheckKind.CUMULATIVE_PERPLEXITY in faults:
        return 40.0
    return 20.5 if CheckKind.PERPLEXITY in faults else 20.0


def score_of(continuation: str, answer: str) -> ContinuationScore:
    greedy = begins_with(answer, continuation)
    words = continuation.split()
    each = math.log(0.9) if greedy else math.log(0.01)
    return ContinuationScore(
        continuation=continuation,
        log_probability=each * len(words),
        token_log_probabilities=tuple(each for _ in words),
        tokens=tuple(words),
        is_greedy=greedy,
    )
