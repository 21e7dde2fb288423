"""Causal tracing, exact: a clean run, corrupted runs, and every site restored in turn.

The protocol is ROME's (Meng et al. 2022, arXiv:2202.05262, `causal_trace.py`): ten samples of
noise of three sigma on the subject's embeddings, the same draws for every cell; one state, or a
window of module outputs, put back at one token. The schedule is ours (`wave`). Invariants: the
numbers equal those of whole forward passes; the answer is fixed before anything is corrupted.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.domain.traces import (
    CausalTrace,
    Metric,
    TracedToken,
    TraceGrid,
    TraceKind,
    TraceRequest,
)
from errata_server.engine.answers import next_token_log_probabilities
from errata_server.engine.bank import Bank
from errata_server.engine.blocks import Blocks, blocks_of, run_layer
from errata_server.engine.locate.cells import Limits, Part, trajectories, waves
from errata_server.engine.locate.corruption import Corrupted, Sigma, corrupt, replace_subject
from errata_server.engine.locate.provenance import provenance
from errata_server.engine.locate.proxy import proxy_prompt, word_ids
from errata_server.engine.locate.readouts import Readout, answer_readout, proxy_readout
from errata_server.engine.locate.roles import token_roles
from errata_server.engine.locate.wave import SLICE, walk
from errata_server.engine.runner import Runner

T = TypeVar("T")
MEBIBYTE: Final = 1024 * 1024

WEAK_EFFECT: Final = 0.5
"""Share of the clean score that must be lost for the corruption to say much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A request in tokens, and what is read out of it, settled on the clean run."""

    request: TraceRequest
    text: str
    ids: tuple[int, ...]
    """The prompt's, and the answer's but for its last one."""

    prompt_tokens: int
    positions: tuple[int, ...]
    """Of the corrupted tokens."""

    replaced: tuple[tuple[int, ...], ...]
    answer_ids: tuple[int, ...]
    answer: str
    predicted_id: int
    predicted: str
    clean: Float[Tensor, " vocab"]
    """Log-probabilities of the next token in the clean run."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Tracer:
    """Traces prompts on one set of weights."""

    runner: Runner
    bank: Bank
    sigma: Sigma

    @property
    def blocks(self) -> Blocks:
        """The model's layers."""
        return blocks_of(self.runner.checkpoint)

    def trace(self, request: TraceRequest, *, progress: ReportProgress) -> CausalTrace:
        """Trace one prompt.

        Raises:
            SubjectNotFoundError: the prompt does not name the subject.
            PromptTooLongError: prompt and answer do not fit the context.
            InvalidInputError: a replacement does not fit, the memory is too small, or the
                model's scores are not finite.
            CancelledError: ``progress`` asked for it.
        """
        began = time.perf_counter()
        case = self._case(request)
        hidden = self._run(partial(self._corrupted, case))
        placed = self._run(partial(self._placed, case, hidden))
        final = self._final(placed)
        readout, foil = self._readout(case, final)
        base = self._run(partial(readout.scores, final[:, -readout.kept :])).double()
        _require_finite(base, request.metric)
        restored = self._restored(case, placed, base[1:], readout, progress)
        corrupted = float(base[1:].mean())
        return CausalTrace(
            prompt=request.prompt,
            subject=request.subject,
            tokens=self._tokens(case),
            layers=self.blocks.layers,
            answer=case.answer,
            answer_tokens=len(case.answer_ids),
            predicted=case.predicted,
            foil=foil,
            metric=request.metric,
            corruption=request.corruption,
            noise=hidden.noise,
            noise_source=hidden.source,
            window=request.window,
            clean=float(base[0]),
            corrupted=corrupted,
            corrupted_samples=tuple(base[1:].tolist()),
            grids=tuple(_grid(kind, restored[kind], base[1:]) for kind in request.kinds),
            warnings=_warnings(case, self.blocks.layers, float(base[0]), corrupted),
            provenance=provenance(self.runner, self.bank.digest(), began),
            proxy_labels=request.proxy.labels if request.proxy else (),
        )

    def predicts(self, prompt: str, answer: str) -> bool:
        """Whether the model says ``answer`` next, by its first token.

        Raises:
            PromptTooLongError: the prompt does not fit the context.
            InvalidFactError: the answer has no tokens of its own.
        """
        wanted = self.runner.tokens.target(answer)[0]
        return int(self._next(prompt).argmax()) == wanted

    def _run(self, step: Callable[[], T]) -> T:
        return self.runner.run(step, self.bank)

    def _next(self, prompt: str) -> Float[Tensor, " vocab"]:
        """Log-probabilities of what follows ``prompt``."""
        return next_token_log_probabilities(self.runner, [prompt], self.bank)[0]

    def _final(
        self, placed: Float[Tensor, "batch seq d_model"]
    ) -> Float[Tensor, "batch seq d_model"]:
        """Whole rows taken through every layer."""
        residual = placed
        for layer in range(self.blocks.layers):
            residual = self._run(partial(run_layer, self.blocks, layer, residual)).after
        return residual

    def _case(self, request: TraceRequest) -> _Case:
        tokens, proxy = self.runner.tokens, request.proxy
        text = proxy_prompt(proxy.question, request.prompt) if proxy else request.prompt
        prompt_ids = tokens.fit(text)
        end = len(request.prompt)  # a proxy's suffix may hold the subject's words, and stays
        positions = tokens.mentions(text, request.subject or request.prompt, end=end)
        replaced = [
            replace_subject(tokens, text, request.subject, other, positions=positions, end=end)
            for other in request.corruption.replacements
        ]
        self.blocks.require_sight(len(prompt_ids))
        clean = self._next(text)
        predicted = int(clean.argmax())
        if proxy is not None:
            answer_ids, answer = [predicted], proxy.labels[1]
        elif request.answer:
            answer_ids, answer = tokens.target(request.answer), request.answer
            tokens.fit_ids(len(prompt_ids), room=len(answer_ids) - 1)
        else:
            answer_ids, answer = [predicted], tokens.decode([predicted]).strip()
        # The difference and the divergence are of the next token alone.
        read = answer_ids if request.metric in _JOINT else answer_ids[:1]
        self.blocks.require_sight(len(prompt_ids) + len(read) - 1)
        return _Case(
            request=request,
            text=text,
            ids=(*prompt_ids, *read[:-1]),
            prompt_tokens=len(prompt_ids),
            positions=tuple(positions),
            replaced=tuple((*row, *read[:-1]) for row in replaced),
            answer_ids=tuple(answer_ids),
            answer=answer,
            predicted_id=predicted,
            predicted=tokens.decode([predicted]).strip(),
            clean=clean,
        )

    def _corrupted(self, case: _Case) -> Corrupted:
        return corrupt(
            self.blocks,
            case.ids,
            case.positions,
            case.request.corruption,
            sigma=self.sigma,
            replaced=case.replaced,
        )

    def _placed(self, case: _Case, hidden: Corrupted) -> Float[Tensor, "batch seq d_model"]:
        blocks = self.blocks
        clean = blocks.embed(torch.tensor([list(case.ids)], device=blocks.device))
        positions = torch.arange(len(case.ids), device=blocks.device)
        return blocks.place(torch.cat([clean, hidden.embeddings]), positions)

    def _readout(
        self, case: _Case, final: Float[Tensor, "batch seq d_model"]
    ) -> tuple[Readout, str]:
        """(the read-out, the foil's text)."""
        request, tokens = case.request, self.runner.tokens
        if request.proxy is not None:
            words = word_ids(tokens, request.proxy.question)
            return proxy_readout(self.blocks, request.proxy, words), ""
        foil, text = 0, ""
        if request.metric is Metric.LOGIT_DIFFERENCE:
            if request.foil:
                foil = tokens.target(request.foil)[0]
            else:
                foil = self._run(partial(self._favourite, final[1:, -1], case.answer_ids[0]))
            text = request.foil or tokens.decode([foil]).strip()
            if foil == case.answer_ids[0]:
                raise InvalidInputError(
                    f"the foil {text!r} begins with the answer's own token; name another",
                    field="foil",
                    foil=text,
                )
        readout = answer_readout(
            self.blocks, request.metric, answer=case.answer_ids, foil=foil, clean=case.clean
        )
        return readout, text

    def _favourite(self, final: Float[Tensor, "sample d_model"], answer: int) -> int:
        """The corrupted runs' most probable next token that is not the answer."""
        mean = self.blocks.logits(final).softmax(dim=-1).mean(dim=0)
        mean[answer] = 0
        return int(mean.argmax())

    def _restored(
        self,
        case: _Case,
        placed: Float[Tensor, "batch seq d_model"],
        corrupted: Float[Tensor, " sample"],
        readout: Readout,
        progress: ReportProgress,
    ) -> Mapping[TraceKind, Float[Tensor, "sample token layer"]]:
        """Scores with each site restored; those of the corrupted run where nothing changes."""
        request, blocks = case.request, self.blocks
        families = trajectories(request.kinds, blocks.layers, request.window)
        budget = _Budget.of(request.memory_mib, blocks, tokens=len(case.ids))
        first = case.positions[0]
        budget.require(len(case.ids) - first)
        planned = waves(
            range(first, case.prompt_tokens),
            families,
            samples=len(corrupted),
            tokens=len(case.ids),
            limits=budget.limits,
        )
        shape = (len(corrupted), case.prompt_tokens, blocks.layers)
        nothing = corrupted.cpu()[:, None, None].expand(shape)
        grids = {kind: nothing.clone() for kind in request.kinds}
        total = len(planned) * blocks.layers
        for walked, parts in enumerate(planned):
            steps = walk(
                placed, parts, readout=readout, slice_size=budget.limits.together, run=self._run
            )
            for step, scores in enumerate(steps):
                done = walked * blocks.layers + step // len(parts)
                progress(Progress(stage="trace", done=done, total=total))
                for part, scored in zip(parts, scores, strict=False):
                    _enter(grids, part, scored)
        for grid in grids.values():
            _require_finite(grid, request.metric)
        return grids

    def _tokens(self, case: _Case) -> tuple[TracedToken, ...]:
        roles = token_roles(case.prompt_tokens, case.positions)
        return tuple(
            TracedToken(
                text=self.runner.tokens.piece(case.ids[index]),
                role=role,
                corrupted=index in case.positions,
            )
            for index, role in enumerate(roles)
        )


_JOINT: Final = frozenset({Metric.PROBABILITY, Metric.LOG_PROBABILITY})
"""Metrics that read every token of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Budget:
    """How much memory the cells in flight may take, in positions of a residual stream."""

    limits: Limits
    mebibytes_a_position: float

    @classmethod
    def of(cls, memory_mib: int, blocks: Blocks, *, tokens: int) -> "_Budget":
        """Three quarters for the states, the rest for what a layer makes on the way."""
        state = blocks.d_model * blocks.dtype.itemsize
        # Norms, queries, keys, values and outputs; the MLP's inner width, twice; weights.
        passing = 10 * state + 2 * blocks.d_in * blocks.dtype.itemsize + 8 * blocks.heads * tokens
        available = memory_mib * MEBIBYTE
        return cls(
            limits=Limits(
                states=3 * available // 4 // state,
                together=min(SLICE, available // 4 // passing),
            ),
            mebibytes_a_position=4 * passing / MEBIBYTE,
        )

    def require(self, positions: int) -> None:
        """Do nothing if at least one trajectory of ``positions`` fits.

        Raises:
            InvalidInputError: it does not.
        """
        if self.limits.together < positions:
            needed = math.ceil(self.mebibytes_a_position * positions)
            raise InvalidInputError(
                f"this prompt needs at least {needed} MiB for its cells; raise memory_mib",
                field="memory_mib",
                needed=needed,
            )


def _enter(
    grids: Mapping[TraceKind, Tensor], part: Part, scored: Float[Tensor, "sample trajectory"]
) -> None:
    """Write a part's scores into the cells they answer."""
    samples = slice(part.samples.start, part.samples.stop)
    for index, one in enumerate(part.trajectories):
        for layer in one.sites:
            grids[one.kind][samples, part.token, layer] = scored[:, index].double().cpu()


def _grid(
    kind: TraceKind,
    restored: Float[Tensor, "sample token layer"],
    corrupted: Float[Tensor, " sample"],
) -> TraceGrid:
    differences = restored - corrupted.cpu()[:, None, None]
    errors = torch.zeros_like(differences[0])
    if len(differences) > 1:
        errors = differences.std(dim=0) / math.sqrt(len(differences))
    return TraceGrid(kind=kind, scores=_rows(restored.mean(dim=0)), standard_errors=_rows(errors))


def _rows(matrix: Float[Tensor, "token layer"]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())


def _require_finite(scores: Tensor, metric: Metric) -> None:
    if not bool(scores.isfinite().all()):
        raise InvalidInputError(
            f"the model's {metric.value} is not a finite number in some run; trace with the "
            "probability, or in a wider dtype",
            field="metric",
        )


def _warnings(case: _Case, layers: int, clean: float, corrupted: float) -> tuple[str, ...]:
    request, found = case.request, []
    if request.proxy is None and case.answer_ids[0] != case.predicted_id:
        found.append(
            f"the model says {case.predicted!r} next, not {case.answer!r}; published averages "
            "leave such facts out"
        )
    mentions = request.prompt.count(request.subject) if request.subject else 1
    if mentions > 1:
        found.append(f"the prompt names the subject {mentions} times; all are corrupted")
    found += _effect_warnings(request, clean, corrupted)
    windowed = {TraceKind.MLP, TraceKind.ATTN}.intersection(request.kinds)
    if windowed and 2 * request.window > layers:
        found.append(
            f"a window of {request.window} restores most of the model's {layers} layers at once; "
            "a smaller one tells layers apart"
        )
    return tuple(found)


def _effect_warnings(request: TraceRequest, clean: float, corrupted: float) -> list[str]:
    """What is to be said of a corruption that does not take most of the score."""
    if clean == corrupted:
        return ["the corruption takes nothing from the score, so there is nothing to restore"]
    if clean < corrupted:
        said = "the corruption raises the score: what carries the subject has effects below 0"
        if request.proxy is None:
            return [said]
        other = request.proxy.labels[0]
        return [f"{said}; to see what speaks for {other!r}, fit the proxy with that as positive"]
    if request.metric is Metric.PROBABILITY and corrupted > (1 - WEAK_EFFECT) * clean:
        lost = 100 * (clean - corrupted) / clean
        return [f"the corruption takes only {lost:.0f} % of the score; effects are small"]
    return []
