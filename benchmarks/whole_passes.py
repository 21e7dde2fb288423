"""Values the slow way: every step a forward and a backward pass of the whole model.

What `errata_server.engine.values` computes faster, one edit at a time and with torch's own Adam,
through a hook on the edited projection: the oracle of its tests and the yardstick of
`benchmarks.values`. It ends with the first residual that is good enough, where the other may go
on for the sake of held prompts.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from errata_server.domain.facts import EditRequest
from errata_server.domain.profiles import Profile
from errata_server.engine.architecture import projection
from errata_server.engine.contexts import Contexts, contexts_of
from errata_server.engine.descent import HELD_WEIGHT, NAMED_WEIGHT
from errata_server.engine.hooks import rewriting
from errata_server.engine.runner import Runner
from errata_server.engine.tokens import Batch
from errata_server.engine.values import STEP_SIZES, ValueSolution

IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One edit's contexts as a left-padded batch, and one residual on its way."""

    runner: Runner
    profile: Profile
    batch: Batch
    columns: Tensor
    """Where each row gets the residual, counted from the end."""

    labels: Tensor
    """Target ids aligned with the last columns, `IGNORED` where a target is shorter."""

    held: Tensor
    """Log-probabilities of the base model after each held prompt."""

    named: int
    """The last of them, which end in the subject's name."""

    named_weight: float
    value_norm: float
    residual: Tensor
    optimiser: torch.optim.Optimizer

    @property
    def limit(self) -> float:
        """The length the residual may have."""
        return self.profile.clamp * self.value_norm

    def step(self, *, update: bool) -> tuple[float, float, bool]:
        """(loss, lowest target probability, good enough), before the residual is moved."""
        module = projection(self.runner.model, self.profile.module)
        with rewriting(module, self._add), torch.enable_grad():
            loss, probability, greedy = self._look()
            done = greedy and probability >= self.profile.stop_probability
            if update and not done:
                self.optimiser.zero_grad()
                loss.backward()
                self.optimiser.step()
                with torch.no_grad():
                    norm = float(self.residual.norm())
                    self.residual.mul_(min(1.0, self.limit / max(norm, 1e-8)))
        return float(loss.detach()), probability, done

    def _look(self) -> tuple[Tensor, float, bool]:
        contexts, width = self.labels.shape
        output = self.runner.model(
            input_ids=self.batch.ids,
            attention_mask=self.batch.mask,
            position_ids=self.batch.positions,
            use_cache=False,
            logits_to_keep=width,
        )
        logits = output.logits.float()
        scores = functional.log_softmax(logits[:contexts], dim=-1)
        wanted = self.labels != IGNORED
        picked = scores.gather(2, self.labels.clamp(min=0)[..., None])[..., 0]
        likelihoods = torch.where(wanted, picked, torch.zeros_like(picked)).sum(dim=1)
        now = functional.log_softmax(logits[contexts:, -1], dim=-1)
        drifts = functional.kl_div(self.held, now, reduction="none", log_target=True).sum(dim=1)
        loss = (
            -likelihoods.mean()
            + self.profile.kl_weight * drifts[0]
            + HELD_WEIGHT * _mean(drifts[1 : len(drifts) - self.named])
            + self.named_weight * _mean(drifts[len(drifts) - self.named :])
            + self.profile.decay_weight * self.residual.norm() / self.value_norm**2
        )
        hits = (scores.argmax(dim=-1) == self.labels) | ~wanted
        return loss, float(likelihoods.detach().exp().min()), bool(hits.all())

    def _add(self, _: Tensor, output: Tensor) -> Tensor:
        mark = torch.zeros(output.shape[:2], dtype=output.dtype, device=output.device)
        mark[torch.arange(len(self.columns), device=output.device), self.columns] = 1
        return output + mark[..., None] * self.residual.to(output.dtype)


def attempt(
    runner: Runner,
    contexts: Contexts,
    profile: Profile,
    *,
    rate: float,
    residual: Tensor,
    named_weight: float,
) -> Attempt:
    """The contexts as a batch, what the base model says to them, and a start."""
    rows = contexts.rows
    batch = runner.tokens.pad([row.ids for row in rows])
    width = max(len(target) for target in contexts.targets)
    labels = torch.full((len(contexts.targets), width), IGNORED)
    for index, target in enumerate(contexts.targets):
        labels[index, width - len(target) :] = torch.tensor(target)
    columns = torch.tensor([row.place - len(row.ids) for row in rows], device=runner.device)
    base = runner.logits(batch, last=1)[len(labels) :, -1].float()
    return Attempt(
        runner=runner,
        profile=profile,
        batch=batch,
        columns=columns,
        labels=labels.to(runner.device),
        held=functional.log_softmax(base, dim=-1),
        named=contexts.named,
        named_weight=named_weight,
        value_norm=runner.lane.run(lambda: _value_norm(runner, profile, batch, columns)),
        residual=residual,
        optimiser=torch.optim.Adam([residual], lr=rate),
    )


def _mean(drifts: Tensor) -> Tensor:
    return drifts.sum() / max(len(drifts), 1)


def _value_norm(runner: Runner, profile: Profile, batch: Batch, columns: Tensor) -> float:
    """Mean norm of the projection's output where the residual is to go, base model."""
    seen: list[Tensor] = []

    def observe(_: Tensor, output: Tensor) -> Tensor:
        seen.append(output[torch.arange(len(columns)), columns])
        return output

    with rewriting(projection(runner.model, profile.module), observe):
        runner.logits(batch, last=1)
    return float(seen[0].float().norm(dim=1).mean())


def optimise(
    runner: Runner, request: EditRequest, profile: Profile, *, held: Sequence[str] = ()
) -> ValueSolution:
    """What `errata_server.engine.values.optimise_value` finds."""
    contexts = contexts_of(runner.tokens, request, profile, held=held)
    found = []
    for restart, size in enumerate(STEP_SIZES):
        found.append(_descend(runner, contexts, profile, size=size, restart=restart))
        if found[-1].converged:
            break
    return max(found, key=lambda solution: solution.target_probability)


def _descend(
    runner: Runner, contexts: Contexts, profile: Profile, *, size: float, restart: int
) -> ValueSolution:
    residual = torch.zeros(profile.d_out, device=runner.device, requires_grad=True)
    rate = profile.learning_rate * size
    weight = 0.0 if restart else NAMED_WEIGHT
    tried = attempt(runner, contexts, profile, rate=rate, residual=residual, named_weight=weight)
    for steps in range(profile.max_steps + 1):  # the last pass only looks
        take = functools.partial(tried.step, update=steps < profile.max_steps)
        loss, probability, done = runner.lane.run(take)
        if done:
            break
    return ValueSolution(
        residual=residual.detach(),
        steps=steps,
        restarts=restart,
        loss=loss,
        target_probability=probability,
        converged=done,
        clamp_fraction=float(residual.detach().norm()) / tried.limit,
    )
