"""Values: the residual that makes the model say the target, found by gradient descent.

The residual is added to the edited projection's output at the subject's last token. All facts
of an edit share it, because their keys nearly coincide. See ROME, arXiv:2202.05262, eq. 4,
with the corrections the literature made since: every context counts, early stop, a restart
with another step size before giving up.
"""

import functools
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from errata_server.domain.facts import EditRequest
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.domain.profiles import Profile
from errata_server.domain.traces import TokenRole
from errata_server.engine.architecture import projection
from errata_server.engine.hooks import rewriting
from errata_server.engine.runner import Runner
from errata_server.engine.tokens import Batch, join

STEP_SIZES: Final = (1.0, 0.4, 2.5)
"""Multiples of the profile's learning rate, tried in turn until one converges."""

ESSENCE: Final = "{} is a"
"""Prompt whose answer must not change: what kind of thing the subject is."""

IGNORED: Final = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueProblem:
    """Everything the optimisation needs, as tensors.

    Rows are facts times prefixes, then the essence prompt.
    """

    batch: Batch
    edited_columns: Int[Tensor, " row"]
    """Where each row gets the residual, counted from the end."""

    labels: Int[Tensor, "context target"]
    """Target ids aligned with the last columns, `IGNORED` where a target is shorter."""

    essence: Float[Tensor, " vocab"]
    """Log-probabilities of the base model after the essence prompt."""

    value_norm: float
    """|v0|: the base value's norm at the subject, averaged over the contexts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueSolution:
    """A residual and how it was found."""

    residual: Float[Tensor, " d_out"]
    steps: int
    restarts: int
    loss: float
    target_probability: float
    converged: bool
    clamp_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What the model does with the residual as it stands."""

    loss: Float[Tensor, ""]
    probability: float
    """Lowest probability of a target over all contexts."""

    greedy: bool
    """Whether every target token is the first choice in every context."""


def optimise_value(
    runner: Runner,
    request: EditRequest,
    profile: Profile,
    *,
    role: TokenRole = TokenRole.LAST_SUBJECT,
    progress: ReportProgress,
) -> ValueSolution:
    """The residual for ``request`` at the profile's projection, added at ``role``'s token.

    Tries the profile's step size, then a smaller and a larger one; the best attempt is
    returned, converged or not, so that a report can show it.

    Raises:
        CancelledError: ``progress`` asked for it.
    """
    problem = state_problem(runner, request, profile, role=role)
    best: ValueSolution | None = None
    for restart in range(len(STEP_SIZES)):
        solution = _descend(runner, problem, profile, restart=restart, progress=progress)
        if best is None or solution.target_probability > best.target_probability:
            best = solution
        if best.converged:
            break
    assert best is not None  # noqa: S101 - STEP_SIZES is not empty
    return best


def state_problem(
    runner: Runner,
    request: EditRequest,
    profile: Profile,
    *,
    role: TokenRole = TokenRole.LAST_SUBJECT,
) -> ValueProblem:
    """Tokenise every context of ``request`` and run the base model once over them.

    Raises:
        PromptTooLongError: a prompt with its prefix and target does not fit the context.
        InvalidFactError: a target has no tokens.
    """
    rows, ends, targets = [], [], []
    for fact in request.facts:
        target = runner.tokens.target(fact.target)
        for prefix in profile.prefixes:
            text = join(prefix, fact.prompt(request.subject))
            rows.append(runner.tokens.fit(text, room=len(target)) + target[:-1])
            ends.append(runner.tokens.place(text, request.subject, role) - len(target) + 1)
            targets.append(target)
    essence = ESSENCE.format(request.subject)
    rows.append(runner.tokens.fit(essence))
    ends.append(runner.tokens.place(essence, request.subject, role))
    batch = runner.tokens.pad(rows)
    width = max(len(target) for target in targets)
    labels = torch.full((len(targets), width), IGNORED)
    for index, target in enumerate(targets):
        labels[index, width - len(target) :] = torch.tensor(target)
    columns = torch.tensor(ends, device=runner.device)
    base = runner.logits(batch, last=1)[-1, -1].float()
    return ValueProblem(
        batch=batch,
        edited_columns=columns,
        labels=labels.to(runner.device),
        essence=functional.log_softmax(base, dim=-1),
        # Its hook must not be seen by passes of others, so it goes on and off on their thread.
        value_norm=runner.lane.run(lambda: _value_norm(runner, profile, batch, columns)),
    )


def _value_norm(runner: Runner, profile: Profile, batch: Batch, columns: Tensor) -> float:
    """Mean norm of the projection's output where the residual is to go, base model."""
    seen: list[Tensor] = []

    def observe(_: Tensor, output: Tensor) -> Tensor:
        seen.append(output[torch.arange(len(columns)), columns])
        return output

    module = projection(runner.model, profile.module)
    with rewriting(module, observe):
        runner.logits(batch, last=1)
    return float(seen[0].float().norm(dim=1).mean())


@dataclass(slots=True)
class _Descent:
    """One attempt: a residual, its optimiser, and the ball it must stay in."""

    runner: Runner
    problem: ValueProblem
    profile: Profile
    residual: Float[Tensor, " d_out"]
    optimiser: torch.optim.Optimizer
    limit: float

    def step(self, *, update: bool) -> tuple[_Look, bool]:
        """(look, good enough): look at the residual, and move it if it is not good enough."""
        module = projection(self.runner.model, self.profile.module)
        with rewriting(module, self._add), torch.enable_grad():
            look = self._look()
            done = look.greedy and look.probability >= self.profile.stop_probability
            if update and not done:
                self.optimiser.zero_grad()
                look.loss.backward()
                self.optimiser.step()
                self._clamp()
        return look, done

    def _look(self) -> _Look:
        problem, contexts = self.problem, len(self.problem.labels)
        width = problem.labels.shape[1]
        output = self.runner.model(
            input_ids=problem.batch.ids,
            attention_mask=problem.batch.mask,
            position_ids=problem.batch.positions,
            use_cache=False,
            logits_to_keep=width,
        )
        logits = output.logits.float()
        scores = functional.log_softmax(logits[:contexts], dim=-1)
        wanted = problem.labels != IGNORED
        picked = scores.gather(2, problem.labels.clamp(min=0)[..., None])[..., 0]
        likelihoods = torch.where(wanted, picked, torch.zeros_like(picked)).sum(dim=1)
        essence = functional.log_softmax(logits[-1, -1], dim=-1)
        # kl_div(input, target) is KL(target || input): of what it says now from what it said.
        drift = functional.kl_div(problem.essence, essence, reduction="sum", log_target=True)
        decay = self.residual.norm() / problem.value_norm**2
        loss = (
            -likelihoods.mean() + self.profile.kl_weight * drift + self.profile.decay_weight * decay
        )
        hits = (scores.argmax(dim=-1) == problem.labels) | ~wanted
        return _Look(
            loss=loss,
            probability=float(likelihoods.detach().exp().min()),
            greedy=bool(hits.all()),
        )

    def _add(self, _: Tensor, output: Tensor) -> Tensor:
        columns = self.problem.edited_columns
        mark = torch.zeros(output.shape[:2], dtype=output.dtype, device=output.device)
        mark[torch.arange(len(columns), device=output.device), columns] = 1
        return output + mark[..., None] * self.residual.to(output.dtype)

    def _clamp(self) -> None:
        with torch.no_grad():
            norm = float(self.residual.norm())
            if norm > self.limit:
                self.residual.mul_(self.limit / norm)


def _descend(
    runner: Runner,
    problem: ValueProblem,
    profile: Profile,
    *,
    restart: int,
    progress: ReportProgress,
) -> ValueSolution:
    residual = torch.zeros(profile.d_out, device=runner.device, requires_grad=True)
    rate = profile.learning_rate * STEP_SIZES[restart]
    descent = _Descent(
        runner=runner,
        problem=problem,
        profile=profile,
        residual=residual,
        optimiser=torch.optim.Adam([residual], lr=rate),
        limit=profile.clamp * problem.value_norm,
    )
    for steps in range(profile.max_steps + 1):  # the last pass only looks
        take = functools.partial(descent.step, update=steps < profile.max_steps)
        look, done = runner.lane.run(take)
        note = f"target probability {look.probability:.3f}"
        progress(Progress(stage="values", done=steps, total=profile.max_steps, note=note))
        if done:
            break
    return ValueSolution(
        residual=residual.detach(),
        steps=steps,
        restarts=restart,
        loss=float(look.loss.detach()),
        target_probability=look.probability,
        converged=done,
        clamp_fraction=float(residual.detach().norm()) / descent.limit,
    )
