"""Descent: gradient steps of many residuals at once, each with its own loss, step and ball.

Invariants: the gradient of one edit's residual comes from its own rows alone; a residual that
is good enough, or out of steps, is looked at and not moved. The steps are Adam's. A residual is
good once the target is certain enough in every context; where other prompts about the subject
are held, the search goes on for a while and keeps the good one that moves them least.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from errata_server.domain.profiles import Profile
from errata_server.engine.contexts import Contexts
from errata_server.engine.reach import Reach

MOMENTUM: Final = 0.9
SPREAD: Final = 0.999
EPSILON: Final = 1e-8
"""Adam's constants, at torch's defaults."""

HELD_WEIGHT: Final = 3.0
"""What the mean divergence at the held prompts counts; the essence has the profile's weight."""

NAMED_WEIGHT: Final = 1.0
"""What the mean divergence right behind the subject's name counts."""

HELD_DRIFT: Final = 0.1
"""Divergence in nats, at every held prompt, below which the search ends."""

PATIENCE: Final = 20
"""Steps more that are taken for the held prompts' sake once the target is said."""

CALM: Final = 0.3
"""What steps are multiplied by from then on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """What many residuals are to do, as tensors over rows, reads and edits."""

    reach: Reach
    row_edits: Int[Tensor, " row"]
    """The edit each row belongs to."""

    wanted: Int[Tensor, " told"]
    """Reads at which a target's token is wanted, and the rows they are of, and the tokens."""

    wanted_rows: Int[Tensor, " told"]
    labels: Int[Tensor, " told"]
    told: Bool[Tensor, " row"]
    """Rows that must say a target."""

    held: Int[Tensor, " held"]
    """Reads at which the base model's answer is to stay."""

    held_edits: Int[Tensor, " held"]
    base: Float[Tensor, "held vocab"]
    """Log-probabilities of the base model there."""

    essence: Bool[Tensor, " held"]
    """Which of them is the one on what the subject is."""

    named: Bool[Tensor, " held"]
    """Which of them are at the subject's name, of what may follow it."""

    value_norms: Float[Tensor, " edit"]
    limits: Float[Tensor, " edit"]
    """Lengths a residual may have."""

    def keep(self, edits: Int[Tensor, " kept"]) -> "Problem":
        """The same for some of the edits, in the order given (ascending)."""
        names = _renamed(edits, len(self.limits))
        rows = (names[self.row_edits] >= 0).nonzero()[:, 0]
        row_names = _renamed(rows, len(self.row_edits))
        reads = (row_names[self.reach.read_rows] >= 0).nonzero()[:, 0]
        read_names = _renamed(reads, len(self.reach.read_rows))
        told = read_names[self.wanted] >= 0
        held = read_names[self.held] >= 0
        return Problem(
            reach=self.reach.keep(rows),
            row_edits=names[self.row_edits[rows]],
            wanted=read_names[self.wanted[told]],
            wanted_rows=row_names[self.wanted_rows[told]],
            labels=self.labels[told],
            told=self.told[rows],
            held=read_names[self.held[held]],
            held_edits=names[self.held_edits[held]],
            base=self.base[held],
            essence=self.essence[held],
            named=self.named[held],
            value_norms=self.value_norms[edits],
            limits=self.limits[edits],
        )


def state(reach: Reach, batch: Sequence[Contexts], profile: Profile) -> Problem:
    """The problem of ``batch``, whose rows ``reach`` holds one after the other."""
    device = reach.states.device
    edits = [edit for edit, contexts in enumerate(batch) for _ in contexts.rows]
    row_edits = torch.tensor(edits, device=device)
    told = torch.tensor(
        [
            index < len(contexts.targets)
            for contexts in batch
            for index in range(len(contexts.rows))
        ],
        device=device,
    )
    is_wanted = told[reach.read_rows]
    wanted, held = is_wanted.nonzero()[:, 0], (~is_wanted).nonzero()[:, 0]
    labels = [token for contexts in batch for target in contexts.targets for token in target]
    alone = reach.keep((~told).nonzero()[:, 0])
    untouched = alone.logits(torch.zeros_like(alone.states[:, 0]))
    counts = torch.bincount(row_edits)
    norms = torch.zeros(len(batch), device=device).index_add(0, row_edits, reach.value_norms)
    return Problem(
        reach=reach,
        row_edits=row_edits,
        wanted=wanted,
        wanted_rows=reach.read_rows[wanted],
        labels=torch.tensor(labels, device=device),
        told=told,
        held=held,
        held_edits=row_edits[reach.read_rows[held]],
        base=functional.log_softmax(untouched, dim=-1),
        essence=torch.tensor([i == 0 for i in _held_places(batch)], device=device),
        named=torch.tensor([i < 0 for i in _held_places(batch)], device=device),
        value_norms=norms / counts,
        limits=profile.clamp * norms / counts,
    )


def _held_places(batch: Sequence[Contexts]) -> list[int]:
    """For each held row, its place among those of its edit; -1 of those that end in its name."""
    return [
        place if place < len(contexts.rows) - len(contexts.targets) - contexts.named else -1
        for contexts in batch
        for place in range(len(contexts.rows) - len(contexts.targets))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the model does with the residuals as they stood, edit by edit."""

    losses: list[float]
    probabilities: list[float]
    """Lowest probability of a target over all contexts."""

    converged: list[bool]
    """Whether a residual was found that makes the model say its targets."""

    over: list[bool]
    """Whether there is no more to be had from this attempt."""

    steps: list[int]
    """Moves made before the look."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scores:
    losses: Float[Tensor, " edit"]
    probabilities: Float[Tensor, " edit"]
    greedy: Bool[Tensor, " edit"]
    drifts: Float[Tensor, " edit"]
    """Largest divergence at a held prompt, the essence aside; 0 where there is none."""


@dataclass(slots=True, eq=False)
class _Kept:
    """Of each edit the residual that says its targets and drifts least, if there is any."""

    residuals: Float[Tensor, "edit d_model"]
    drifts: Float[Tensor, " edit"]
    losses: Float[Tensor, " edit"]
    probabilities: Float[Tensor, " edit"]
    since: Int[Tensor, " edit"]
    """Looks since there first was one."""

    @property
    def found(self) -> Bool[Tensor, " edit"]:
        """Which edits have one."""
        return self.drifts.isfinite()

    def take(
        self, good: Bool[Tensor, " edit"], residuals: Float[Tensor, "edit d_model"], scores: _Scores
    ) -> None:
        """Keep those that are ``good`` and better than what was kept before."""
        self.since += self.found
        better = good & (scores.drifts < self.drifts)
        self.residuals = torch.where(better[:, None], residuals.detach(), self.residuals)
        self.drifts = torch.where(better, scores.drifts, self.drifts)
        self.losses = torch.where(better, scores.losses.detach(), self.losses)
        self.probabilities = torch.where(better, scores.probabilities, self.probabilities)


class Descent:
    """Residuals on their way down; `restart` each before the first step."""

    def __init__(self, problem: Problem, profile: Profile) -> None:
        shape = (len(problem.limits), problem.reach.states.shape[2])
        device = problem.reach.states.device
        self.problem = problem
        self._profile = profile
        self._residuals = torch.zeros(shape, device=device)
        self._means, self._squares = (
            torch.zeros_like(self._residuals),
            torch.zeros(shape).to(device),
        )
        self._steps = torch.zeros(shape[0], dtype=torch.long, device=device)
        self._rates = torch.zeros(shape[0], device=device)
        self._named_weights = torch.zeros(shape[0], device=device)
        self._kept = _Kept(
            residuals=torch.zeros(shape, device=device),
            drifts=torch.full(shape[:1], torch.inf, device=device),
            losses=torch.zeros(shape[0], device=device),
            probabilities=torch.zeros(shape[0], device=device),
            since=torch.zeros(shape[0], dtype=torch.long, device=device),
        )

    def residual(self, edit: int) -> Float[Tensor, " d_model"]:
        """A copy of one edit's best residual, or as it stands where none is good."""
        found = bool(self._kept.found[edit])
        return (self._kept.residuals if found else self._residuals)[edit].clone()

    def limit(self, edit: int) -> float:
        """The length that residual may have."""
        return float(self.problem.limits[edit])

    def restart(self, edit: int, size: float, *, named: bool) -> None:
        """Begin again from nothing, with ``size`` times the profile's learning rate.

        Args:
            edit: Which.
            size: Of its steps.
            named: Whether what may follow the subject's name is held.
        """
        for part in (self._residuals, self._means, self._squares, self._steps, self._kept.since):
            part[edit] = 0
        self._kept.drifts[edit] = torch.inf
        self._rates[edit] = self._profile.learning_rate * size
        self._named_weights[edit] = NAMED_WEIGHT if named else 0.0

    def keep(self, edits: Sequence[int]) -> None:
        """Go on with some of the edits only."""
        kept = torch.tensor(edits, device=self._residuals.device)
        self.problem = self.problem.keep(kept)
        self._residuals, self._means, self._squares = (
            part[kept] for part in (self._residuals, self._means, self._squares)
        )
        self._steps, self._rates, self._named_weights = (
            part[kept] for part in (self._steps, self._rates, self._named_weights)
        )
        best = self._kept
        self._kept = _Kept(
            residuals=best.residuals[kept],
            drifts=best.drifts[kept],
            losses=best.losses[kept],
            probabilities=best.probabilities[kept],
            since=best.since[kept],
        )

    def step(self) -> Look:
        """Look at every residual, and move those that may still become better."""
        residuals = self._residuals.requires_grad_()
        scores = self._scores(residuals)
        kept = self._kept
        good = scores.greedy & (scores.probabilities >= self._profile.stop_probability)
        kept.take(good, residuals, scores)
        out = self._steps >= self._profile.max_steps
        over = out | (kept.drifts <= HELD_DRIFT) | (kept.since >= PATIENCE)
        look = Look(
            losses=torch.where(kept.found, kept.losses, scores.losses).tolist(),
            probabilities=torch.where(
                kept.found, kept.probabilities, scores.probabilities
            ).tolist(),
            converged=kept.found.tolist(),
            over=over.tolist(),
            steps=self._steps.tolist(),
        )
        if not bool(over.all()):
            (gradient,) = torch.autograd.grad(scores.losses.sum(), residuals)
            self._residuals = residuals.detach()
            self._move(gradient, ~over)
        self._residuals = self._residuals.detach()
        return look

    def _scores(self, residuals: Float[Tensor, "edit d_model"]) -> _Scores:
        problem, profile = self.problem, self._profile
        edits = len(residuals)
        logits = problem.reach.logits(residuals[problem.row_edits])
        scores = functional.log_softmax(logits, dim=-1)
        told = scores[problem.wanted]
        picked = told.gather(1, problem.labels[:, None])[:, 0]
        likelihoods = picked.new_zeros(len(problem.told)).index_add(0, problem.wanted_rows, picked)
        likelihoods, owners = likelihoods[problem.told], problem.row_edits[problem.told]
        # kl_div(input, target) is KL(target || input): of what it says now from what it said.
        essence, named = problem.essence, problem.named
        held = ~(essence | named)
        drifts = functional.kl_div(
            problem.base, scores[problem.held], reduction="none", log_target=True
        ).sum(dim=1)
        decays = residuals.norm(dim=1) / problem.value_norms**2
        misses = told.argmax(dim=1) != problem.labels
        lowest = torch.ones(edits, device=residuals.device).scatter_reduce(
            0, owners, likelihoods.detach().exp(), "amin"
        )
        missed = misses.new_zeros(edits).index_put(
            (problem.row_edits[problem.wanted_rows],), misses, accumulate=True
        )
        return _Scores(
            losses=-_mean(likelihoods, owners, edits)
            + profile.kl_weight * _mean(drifts[essence], problem.held_edits[essence], edits)
            + HELD_WEIGHT * _mean(drifts[held], problem.held_edits[held], edits)
            + self._named_weights * _mean(drifts[named], problem.held_edits[named], edits)
            + profile.decay_weight * decays,
            probabilities=lowest,
            greedy=~missed,
            drifts=torch.zeros(edits, device=residuals.device).scatter_reduce(
                0, problem.held_edits[held], drifts.detach()[held], "amax"
            ),
        )

    @torch.no_grad()
    def _move(self, gradient: Float[Tensor, "edit d_model"], moving: Bool[Tensor, " edit"]) -> None:
        """Adam's step for those that move, back into the ball where it leads out of it."""
        here = moving[:, None]
        self._steps += moving
        means = self._means.lerp(gradient, 1 - MOMENTUM)
        squares = self._squares * SPREAD + gradient**2 * (1 - SPREAD)
        steps = self._steps.clamp(min=1)[:, None].double()
        spread = (squares.sqrt() / (1 - SPREAD**steps).sqrt()).float() + EPSILON
        rates = torch.where(self._kept.found, CALM * self._rates, self._rates)
        sizes = (rates[:, None] / (1 - MOMENTUM**steps)).float()
        residuals = self._residuals - sizes * means / spread
        lengths = residuals.norm(dim=1)
        fits = (self.problem.limits / lengths.clamp(min=EPSILON)).clamp(max=1)
        self._means = torch.where(here, means, self._means)
        self._squares = torch.where(here, squares, self._squares)
        self._residuals = torch.where(here, residuals * fits[:, None], self._residuals)


def _mean(
    values: Float[Tensor, " row"], owners: Int[Tensor, " row"], edits: int
) -> Float[Tensor, " edit"]:
    """Mean of the values of each edit."""
    counts = torch.bincount(owners, minlength=edits).clamp(min=1)
    return values.new_zeros(edits).index_add(0, owners, values) / counts


def _renamed(kept: Int[Tensor, " kept"], count: int) -> Int[Tensor, " row"]:
    """The new index of every old one; -1 for those that are gone."""
    names = torch.full((count,), -1, device=kept.device)
    names[kept] = torch.arange(len(kept), device=kept.device)
    return names
