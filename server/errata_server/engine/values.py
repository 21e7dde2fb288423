"""Values: the residual that makes the model say the target, found by gradient descent.

The residual is added to the edited projection's output at the subject's last token. All facts
of an edit share it, because their keys nearly coincide. See ROME, arXiv:2202.05262, eq. 4,
with the corrections the literature made since: every context counts, early stop, a restart
with another step size before giving up, more held than what the subject is. Invariants: edits
that are optimised together do not act on each other; each stops and restarts by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from jaxtyping import Float
from torch import Tensor

from errata_server.domain.facts import EditRequest
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.domain.profiles import Profile
from errata_server.domain.traces import TokenRole
from errata_server.engine.blocks import blocks_of
from errata_server.engine.contexts import Contexts, contexts_of
from errata_server.engine.descent import Descent, Look, Problem, state
from errata_server.engine.reach import reach_of
from errata_server.engine.runner import Runner

STEP_SIZES: Final = (1.0, 0.4, 2.5)
"""Multiples of the profile's learning rate, tried in turn until one converges: from the second on
without holding what may follow the subject's name, which some edits cannot."""


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


def optimise_value(
    runner: Runner,
    request: EditRequest,
    profile: Profile,
    *,
    role: TokenRole = TokenRole.LAST_SUBJECT,
    held: Sequence[str] = (),
    progress: ReportProgress,
) -> ValueSolution:
    """The residual for ``request`` at the profile's projection, added at ``role``'s token.

    Tries the profile's step size, then a smaller and a larger one; the best attempt is
    returned, converged or not, so that a report can show it.

    Args:
        held: Prompts about the subject whose answers are to stay.

    Raises:
        PromptTooLongError: a prompt with its prefix and target does not fit the context.
        InvalidFactError: a target has no tokens.
        CancelledError: ``progress`` asked for it.
    """
    contexts = contexts_of(runner.tokens, request, profile, role=role, held=held)
    ((_, solution),) = optimise_values(runner, [contexts], profile, progress=progress)
    return solution


def optimise_values(
    runner: Runner, batch: Sequence[Contexts], profile: Profile, *, progress: ReportProgress
) -> Iterator[tuple[int, ValueSolution]]:
    """(index, solution) of every edit of ``batch``, each as soon as it is found.

    All of them go through the model together; one that is done leaves.

    Raises:
        CancelledError: ``progress`` asked for it.
    """
    search = _Search(runner=runner, profile=profile, problem=pose(runner, batch, profile))
    while search.left:
        yield from search.step()
        progress(search.progress(len(batch)))


def pose(runner: Runner, batch: Sequence[Contexts], profile: Profile) -> Problem:
    """Run the base model once over all contexts of ``batch``."""
    rows = [row for contexts in batch for row in contexts.rows]
    reach = reach_of(blocks_of(runner.checkpoint), rows, profile.layer, run=runner.run)
    problem: Problem = runner.run(lambda: state(reach, batch, profile))
    return problem


class _Search:
    """The edits that are not done, and the best each has come to."""

    def __init__(self, *, runner: Runner, profile: Profile, problem: Problem) -> None:
        self._runner = runner
        self._profile = profile
        self._descent = Descent(problem, profile)
        self._edits = list(range(len(problem.limits)))
        self._restarts = [0] * len(problem.limits)
        self._best: dict[int, ValueSolution] = {}
        self._look: Look | None = None
        for index in self._edits:
            self._descent.restart(index, STEP_SIZES[0], named=True)

    @property
    def left(self) -> int:
        """Edits that are not done."""
        return len(self._edits)

    def step(self) -> list[tuple[int, ValueSolution]]:
        """Take one step with every edit; those that are done now."""
        descent = self._descent
        self._look = look = self._runner.run(descent.step, gradients=True)
        done: list[tuple[int, ValueSolution]] = []
        over: list[int] = []
        for index, edit in enumerate(self._edits):
            if not look.over[index]:
                continue
            best = self._judge(index, edit, look)
            restart = self._restarts[edit] + 1
            if best.converged or restart == len(STEP_SIZES):
                done.append((edit, best))
                over.append(index)
            else:
                self._restarts[edit] = restart
                descent.restart(index, STEP_SIZES[restart], named=False)
        if over:
            kept = [index for index in range(len(self._edits)) if index not in set(over)]
            self._edits = [self._edits[index] for index in kept]
            if kept:
                self._runner.run(lambda: descent.keep(kept))
        return done

    def progress(self, total: int) -> Progress:
        """One edit's steps, or how many edits are done."""
        assert self._look is not None  # noqa: S101 - asked for after a step only
        note = f"target probability {min(self._look.probabilities):.3f}"
        if total == 1:
            done, steps = self._look.steps[0], self._profile.max_steps
            return Progress(stage="values", done=done, total=steps, note=note)
        return Progress(stage="values", done=total - self.left, total=total, note=note)

    def _judge(self, index: int, edit: int, look: Look) -> ValueSolution:
        """The better of this attempt and the best before."""
        residual = self._descent.residual(index)
        solution = ValueSolution(
            residual=residual,
            steps=look.steps[index],
            restarts=self._restarts[edit],
            loss=look.losses[index],
            target_probability=look.probabilities[index],
            converged=look.converged[index],
            clamp_fraction=float(residual.norm()) / self._descent.limit(index),
        )
        best = self._best.get(edit)
        if best is None or solution.target_probability > best.target_probability:
            self._best[edit] = best = solution
        return best
