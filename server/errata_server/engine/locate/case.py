"""What a locator is given, what it gives back, and the row that names it.

Invariants: a locator touches tensors in `Case.step` alone, so on a model thread and with the
located revision's edits live; it reports between steps, where a caller may cancel it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from errata_server.domain.known_facts import NO_KNOWN_FACTS, KnownFacts
from errata_server.domain.locators import Chart, Locator
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.domain.profiles import Profile
from errata_server.engine.bank import Bank
from errata_server.engine.blocks import Blocks
from errata_server.engine.runner import Runner

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fact to locate, in tokens, on one set of weights."""

    runner: Runner
    blocks: Blocks
    bank: Bank
    prompt: str
    subject: str
    ids: tuple[int, ...]
    """Of the prompt."""

    subject_positions: tuple[int, ...]
    """Of every token of every mention, ascending; never empty."""

    subject_end: int
    """Of the last token of the last mention."""

    answer: str
    answer_ids: tuple[int, ...]
    """As they continue the prompt; at least one."""

    predicted: int
    """The token the model puts first."""

    texts: tuple[str, ...] = ()
    """Ordinary texts."""

    known_facts: KnownFacts = NO_KNOWN_FACTS
    seed: int = 0
    profile: Profile | None = None
    """For locators that edit; None where the model is not calibrated."""

    cache: Path | None = None
    """Folder of second moments, for locators that edit."""

    def step(self, work: Callable[[], T], *, gradients: bool = False) -> T:
        """What ``work`` returns on a model thread with the edits live.

        Keep it to one layer or one batch: generation waits meanwhile.
        """
        return self.runner.run(work, self.bank, gradients=gradients)

    def row(self, ids: Sequence[int]) -> Int[Tensor, "1 seq"]:
        """``ids`` as a batch of one."""
        return torch.tensor([list(ids)], device=self.blocks.device)

    @property
    def longest(self) -> int:
        """Most tokens of a text every one of which sees all before it."""
        context = self.runner.tokens.context
        return min(context, self.blocks.sight or context)

    @property
    def token_texts(self) -> tuple[str, ...]:
        """The prompt's tokens as they read."""
        return tuple(self.runner.tokens.piece(token) for token in self.ids)

    @property
    def first_token_warnings(self) -> tuple[str, ...]:
        """For locators of the next token alone: a warning where the answer has more tokens."""
        if len(self.answer_ids) == 1:
            return ()
        first = self.runner.tokens.decode(self.answer_ids[:1])
        return (
            f"the answer {self.answer!r} has {len(self.answer_ids)} tokens; this locator reads "
            f"the first, {first!r}",
        )

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers as charts name them."""
        return tuple(str(layer) for layer in range(self.blocks.layers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a locator found, before it is put together with the request."""

    charts: tuple[Chart, ...]
    figures: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


Run = Callable[[Case, Mapping[str, float], ReportProgress], Findings]
"""A locator's work; its options are complete and in range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A locator of the table."""

    locator: Locator
    run: Run


@dataclass(slots=True)
class Steps:
    """Reports each finished step of a locator."""

    progress: ReportProgress
    total: int
    stage: str = "locate"
    done: int = 0

    def finish(self, note: str = "") -> None:
        """Count one step.

        Raises:
            CancelledError: the caller asked for it.
        """
        self.done += 1
        self.progress(Progress(stage=self.stage, done=self.done, total=self.total, note=note))
