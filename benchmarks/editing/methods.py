"""Every way to edit that is measured, as a row of `METHODS`.

They share the value optimisation and differ in where its residual goes. Methods that change
the model's weight do so in place and put it back when their block ends; the optimisation of a
later edit then runs on the weight as it stands, as published. The others never touch it, so
their patches are those of the base model whatever was edited before.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from benchmarks.editing.cases import Case
from benchmarks.editing.codebook import Codebook
from benchmarks.editing.workbench import Workbench, ignored
from errata_server.domain.linear import LINEAR_METHODS, LinearMethod
from errata_server.domain.patches import Composition
from errata_server.engine.bank import Bank, compose
from errata_server.engine.keys import keys_at_subject
from errata_server.engine.linear import LinearEdit, WeightChange, bank_of, linear_changes
from errata_server.engine.patch import PatchTensors
from errata_server.engine.runner import BASE
from errata_server.engine.tokens import join

PUBLISHED_STEPS: Final = 20
"""Steps of ROME's value optimisation, used once the weight holds edits; a collapsed model
never converges, and waiting longer for it changes nothing."""

TUNING_RATE: Final = 5e-4
TUNING_STEPS: Final = 25
TUNING_LOSS: Final = 1e-2
"""Fine-tuning as in ROME's comparison (arXiv:2202.05262): the rate, the steps, and the loss at
which it stops."""

TUNING_ROWS: Final = 32


class MethodName(StrEnum):
    """A way to edit."""

    ERRATA = "errata"
    """Guarded patches beside the weight."""

    LINEAR = "linear"
    """The same patches, solved jointly as one weight change."""

    EMMET = "emmet"
    """The same, by the published ridge; see `errata_server.domain.linear`."""

    MEMIT = "memit"
    """Spread over layers, each taking its part of what is missing."""

    ALPHAEDIT = "alphaedit"
    """The same within the null space of ordinary keys."""

    ROME = "rome"
    """In place, the averaged key mixed with the unprefixed one, as published."""

    R_ROME = "r-rome"
    """In place, one key throughout."""

    CODEBOOK = "codebook"
    """Values looked up by the state of the prompt's last token, as GRACE does."""

    FINETUNE = "finetune"
    """Gradient descent on the same projection's weight."""

    PROMPT = "prompt"
    """The edit's sentence put before every prompt that names its subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How the edited model is asked."""

    bank: Bank = BASE
    rewrite: Callable[[str], str] = str
    """What becomes of a prompt before the model sees it."""


class Method(Protocol):
    """Edits so far, and the model that has them."""

    def edit(self, cases: Sequence[Case]) -> None:
        """Add the edits of ``cases``, all computed on the model as it stands."""

    def answering(self) -> AbstractContextManager[Condition]:
        """The edited model, for as long as the block takes."""


class Composed:
    """Patches of the base model, composed by errata itself."""

    def __init__(self, bench: Workbench, composition: Composition) -> None:
        self._bench = bench
        self._composition = composition
        self._patches: list[PatchTensors] = []

    def edit(self, cases: Sequence[Case]) -> None:
        """See `Method.edit`."""
        for case in cases:
            patch = self._bench.patch(case.request, held=case.held)
            self._patches += [patch] if patch is not None else []

    def answering(self) -> AbstractContextManager[Condition]:
        """See `Method.answering`."""
        bank = compose(self._patches, self._composition, self._bench.runner.device)
        return nullcontext(Condition(bank=bank))


class Solved:
    """All edits as weight changes by one linear method, solved afresh on the base model."""

    def __init__(self, bench: Workbench, method: LinearMethod) -> None:
        self._bench = bench
        self._method = method
        self._edits: list[LinearEdit] = []

    def edit(self, cases: Sequence[Case]) -> None:
        """See `Method.edit`."""
        self._edits += linear_edits(self._bench, self._method, cases)

    def answering(self) -> AbstractContextManager[Condition]:
        """See `Method.answering`."""
        changes = weight_changes(self._bench, self._method, self._edits)
        return nullcontext(Condition(bank=bank_of(changes, self._bench.runner.device)))


class InPlace:
    """Rank-one changes added to the weight, one after another."""

    def __init__(self, bench: Workbench, *, mixed: bool) -> None:
        self._bench = bench
        self._mixed = mixed
        self._history = ""

    def edit(self, cases: Sequence[Case]) -> None:
        """See `Method.edit`."""
        changes = [self._change(case) for case in cases]
        weight = self._bench.module.get_parameter("weight")

        def add() -> None:
            for change in changes:
                weight.add_(change.to(weight.dtype))

        self._bench.runner.run(add)
        for case in cases:
            said = f"{self._history}|{self._mixed}|{case.sentence}"
            self._history = hashlib.sha256(said.encode()).hexdigest()

    def answering(self) -> AbstractContextManager[Condition]:
        """See `Method.answering`."""
        return nullcontext(Condition())

    def _change(self, case: Case) -> Tensor:
        """What the weight of the projection changes by, in the shape it is stored in."""
        bench, request = self._bench, case.request
        profile = bench.profile
        if self._history:
            profile = replace(profile, max_steps=PUBLISHED_STEPS)
        patch = bench.patch(request, profile=profile, history=self._history)
        if patch is None:
            return torch.zeros_like(bench.module.get_parameter("weight"))
        prompt = case.efficacy.prompt
        texts = [join(prefix, prompt) for prefix in bench.profile.prefixes]
        keys = keys_at_subject(
            bench.runner, bench.profile.module, [prompt, *texts], request.subject
        ).double()
        bare, averaged = keys[0], keys[1:].mean(dim=0)
        left = torch.cholesky_solve(averaged[:, None], bench.factor)[:, 0]
        residual = patch.residual.double()
        if self._mixed:
            right = residual / (bare @ left)
        else:
            # The value stays W bare + residual; the averaged key must now give it.
            right = (residual + self._through(bare - averaged)) / (averaged @ left)
        change = torch.outer(left, right)
        return change if isinstance(bench.module, Conv1D) else change.T

    def _through(self, key: Tensor) -> Tensor:
        """``key`` through the weight as it stands, without the bias."""
        weight = self._bench.module.get_parameter("weight").detach().double()
        return key @ weight if isinstance(self._bench.module, Conv1D) else weight @ key


class FineTuned:
    """The weight after gradient descent on the edits' targets."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def edit(self, cases: Sequence[Case]) -> None:
        """See `Method.edit`."""
        weight = self._bench.module.get_parameter("weight")
        optimiser = torch.optim.Adam([weight], lr=TUNING_RATE)
        chunks = [cases[at : at + TUNING_ROWS] for at in range(0, len(cases), TUNING_ROWS)]
        for _ in range(TUNING_STEPS):
            # Every chunk is looked at before any can say that all is learnt.
            losses = [self._step(chunk, weight, optimiser) for chunk in chunks]
            if max(losses) < TUNING_LOSS:
                break

    def answering(self) -> AbstractContextManager[Condition]:
        """See `Method.answering`."""
        return nullcontext(Condition())

    def _step(
        self, cases: Sequence[Case], weight: Tensor, optimiser: torch.optim.Optimizer
    ) -> float:
        tokens = self._bench.runner.tokens
        targets = [tokens.target(case.target) for case in cases]
        prompts = [tokens.fit(case.efficacy.prompt) for case in cases]
        batch = tokens.pad([p + t[:-1] for p, t in zip(prompts, targets, strict=True)])
        width = max(map(len, targets))
        labels = torch.full((len(cases), width), -100)
        for row, target in zip(labels, targets, strict=True):
            row[width - len(target) :] = torch.tensor(target)

        def step() -> float:
            weight.requires_grad_(True)
            logits = self._bench.runner.model(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                use_cache=False,
                logits_to_keep=width,
            ).logits
            loss = functional.cross_entropy(
                logits.float().flatten(0, 1), labels.to(logits.device).flatten()
            )
            if float(loss.detach()) >= TUNING_LOSS:
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            weight.requires_grad_(False)
            return float(loss.detach())

        return self._bench.runner.run(step, gradients=True)


class Retrieved:
    """The base model, told the edit in the prompt wherever a subject is named.

    The retrieval is perfect: it goes by the subjects' names.
    """

    def __init__(self) -> None:
        self._sentences: dict[str, str] = {}
        self._pattern = re.compile("(?!)")

    def edit(self, cases: Sequence[Case]) -> None:
        """See `Method.edit`."""
        self._sentences |= {case.request.subject: case.sentence for case in cases}
        longest_first = sorted(self._sentences, key=len, reverse=True)
        names = "|".join(map(re.escape, longest_first))
        self._pattern = re.compile(rf"(?<!\w)(?:{names})(?!\w)")

    def answering(self) -> AbstractContextManager[Condition]:
        """See `Method.answering`."""
        return nullcontext(Condition(rewrite=self._told))

    def _told(self, prompt: str) -> str:
        named = dict.fromkeys(self._pattern.findall(prompt))
        return " ".join([*(self._sentences[subject] for subject in named), prompt])


class LookedUp:
    """The base model with a codebook at a later layer."""

    def __init__(self, bench: Workbench) -> None:
        self._codebook = Codebook(bench)

    def edit(self, cases: Sequence[Case]) -> None:
        """See `Method.edit`."""
        for case in cases:
            self._codebook.add(case)

    @contextmanager
    def answering(self) -> Iterator[Condition]:
        """See `Method.answering`."""
        with self._codebook.installed():
            yield Condition()


def linear_edits(bench: Workbench, method: LinearMethod, cases: Sequence[Case]) -> list[LinearEdit]:
    """``cases`` with patches of the base model at the last layer ``method`` writes to.

    Those that change nothing are left out.
    """
    span = method.span(bench.profile.layer, bench.runner.checkpoint.layers)
    there = bench.at(span[-1])
    pairs = [(case.request, there.patch(case.request, held=case.held)) for case in cases]
    return [
        LinearEdit(request=request, patch=patch) for request, patch in pairs if patch is not None
    ]


def weight_changes(
    bench: Workbench, method: LinearMethod, edits: Sequence[LinearEdit]
) -> tuple[WeightChange, ...]:
    """What ``edits`` change the model's weights by."""
    return linear_changes(
        bench.runner,
        edits,
        method=method,
        profile=bench.profile,
        moment=bench.moment,
        progress=ignored,
    )


METHODS: Final[Mapping[MethodName, Callable[[Workbench], Method]]] = {
    MethodName.ERRATA: lambda bench: Composed(bench, Composition.GUARDED),
    MethodName.LINEAR: lambda bench: Composed(bench, Composition.LINEAR),
    MethodName.EMMET: lambda bench: Solved(bench, LINEAR_METHODS["emmet"]),
    MethodName.MEMIT: lambda bench: Solved(bench, LINEAR_METHODS["memit"]),
    MethodName.ALPHAEDIT: lambda bench: Solved(bench, LINEAR_METHODS["alphaedit"]),
    MethodName.ROME: lambda bench: InPlace(bench, mixed=True),
    MethodName.R_ROME: lambda bench: InPlace(bench, mixed=False),
    MethodName.CODEBOOK: LookedUp,
    MethodName.FINETUNE: FineTuned,
    MethodName.PROMPT: lambda _: Retrieved(),
}


@contextmanager
def opened(name: MethodName, bench: Workbench) -> Iterator[Method]:
    """Method ``name`` on ``bench``'s model, whose weight is as it was when the block ends."""
    weight = bench.module.get_parameter("weight")
    kept = weight.detach().clone()
    try:
        yield METHODS[name](bench)
    finally:
        bench.runner.run(lambda: weight.copy_(kept))
