"""From a request to a patch: keys, then value, then the two packed together.

Everything is computed against the base model, so a patch does not depend on which others
are live.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server import telemetry
from errata_server.domain.errors import NoEffectError
from errata_server.domain.facts import EditRequest
from errata_server.domain.operations import ReportProgress
from errata_server.domain.patches import OptimisationRecord, PatchManifest
from errata_server.domain.profiles import Profile
from errata_server.domain.traces import TokenRole
from errata_server.engine.bank import GuardedBranch
from errata_server.engine.crowd import Crowd
from errata_server.engine.decoys import Decoys, decoys_of
from errata_server.engine.keys import MAXIMUM_KEYS, keys_at_subject, own_width, subject_keys
from errata_server.engine.patch import PatchTensors
from errata_server.engine.runner import Runner
from errata_server.engine.solve import match_keys
from errata_server.engine.values import ValueSolution, optimise_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """How an edit knows its subject: keys with their matchers."""

    keys: Float[Tensor, "key d_in"]
    matchers: Float[Tensor, "key d_in"]
    leverages: Float[Tensor, " key"]
    agreement: float
    """rho_u: the unprefixed key's match with the averaged key."""

    width: float
    """tau: the profile's, or less where ordinary keys are near."""

    decoys: Decoys

    @property
    def guard(self) -> GuardedBranch:
        """The edit's guard with nothing behind it."""
        matchers, count = self.matchers.float(), len(self.keys)
        return GuardedBranch(
            module="",
            matchers=matchers,
            widths=torch.full((count,), self.width),
            residuals=matchers.new_zeros(1, 0),
            owners=torch.zeros(count, dtype=torch.long),
            scales=(self.leverages.sqrt() / self.keys.double().norm(dim=1)).float(),
            decoys=self.decoys.rows,
        )


def compute_patch(
    runner: Runner,
    request: EditRequest,
    profile: Profile,
    factor: Float[Tensor, "d_in d_in"],
    *,
    role: TokenRole = TokenRole.LAST_SUBJECT,
    progress: ReportProgress,
) -> PatchTensors:
    """The patch that makes ``request`` true, converged or not, its guard as wide as the profile's.

    Args:
        factor: Cholesky factor of the second moment at the profile's layer.
        role: The token whose key is recognised; another than the subject's last is for the
            editing sweep, which shows what that costs.

    Raises:
        PromptTooLongError: a prompt with its prefix and target does not fit the context.
        InvalidFactError: a target has no tokens.
        NoEffectError: the residual found is zero.
        CancelledError: ``progress`` asked for it.
    """
    with telemetry.stage("keys"):
        recognition = recognise(runner, request, profile, factor, role=role)
    with telemetry.stage("values"):
        solution = optimise_value(runner, request, profile, role=role, progress=progress)
    return assemble(runner, request, profile, recognition, solution)


def recognise(
    runner: Runner,
    request: EditRequest,
    profile: Profile,
    factor: Float[Tensor, "d_in d_in"],
    *,
    role: TokenRole = TokenRole.LAST_SUBJECT,
    crowd: Crowd | None = None,
) -> Recognition:
    """The keys of ``request``'s subject, and what its guard does in a ``crowd``; see `keys`."""
    prompts = [fact.prompt(request.subject) for fact in request.facts]
    keys, agreement = subject_keys(
        runner, request.subject, profile, factor, prompts=prompts, role=role
    )
    for alias in request.aliases:
        others, _ = subject_keys(runner, alias, profile, factor)
        keys = torch.cat([keys, others])
    matchers, leverages = match_keys(keys, factor)
    found = Recognition(
        keys=keys,
        matchers=matchers,
        leverages=leverages,
        agreement=agreement,
        width=profile.guard_width,
        decoys=Decoys(subjects=(), rows=matchers[:0].float()),
    )
    if crowd is None:
        return found
    return in_crowd(runner, request, profile, factor, found, crowd=crowd)


def in_crowd(
    runner: Runner,
    request: EditRequest,
    profile: Profile,
    factor: Float[Tensor, "d_in d_in"],
    found: Recognition,
    *,
    crowd: Crowd,
) -> Recognition:
    """``found`` with a guard that keeps off a ``crowd``, but not off the edit's own prompts.

    Where the guard does not fire on the subject in one of ``request``'s prompts, because a decoy is
    nearer there than the edit's keys are or because it was narrowed, that mention becomes a key
    too, as long as there are no more than `MAXIMUM_KEYS` for each name: at its own key an edit is
    nearer than any decoy. The checks tell of a prompt that stays unheard.
    """
    names = (request.subject, *request.aliases)
    prompts = [fact.prompt(request.subject) for fact in request.facts]
    asked = keys_at_subject(runner, profile.module, prompts, request.subject).cpu()
    ordinary = crowd.ordinary_without(names)
    most = MAXIMUM_KEYS * len(names)
    while True:
        width = own_width(found.matchers, ordinary, profile.guard_width)
        narrowed = replace(profile, guard_width=width)
        decoys = decoys_of(runner, names, found.matchers, narrowed, factor, known=crowd.known)
        found = replace(found, width=width, decoys=decoys)
        deaf = asked[~found.guard.nearest(asked).fires]
        if not len(deaf) or len(found.keys) >= most:
            return found
        keys = torch.cat([found.keys, deaf[:1]])
        matchers, leverages = match_keys(keys, factor)
        found = replace(found, keys=keys, matchers=matchers, leverages=leverages)


def assemble(
    runner: Runner,
    request: EditRequest,
    profile: Profile,
    recognition: Recognition,
    solution: ValueSolution,
) -> PatchTensors:
    """Keys and value packed together.

    Raises:
        NoEffectError: the residual is zero.
    """
    if not bool(solution.residual.any()):
        raise NoEffectError(
            f"the base model prefers every target about {request.subject!r} in every context "
            "already; this edit would change nothing",
            subject=request.subject,
        )
    manifest = PatchManifest(
        model_digest=runner.checkpoint.digest,
        profile=profile.id,
        module=profile.module,
        layer=profile.layer,
        d_in=profile.d_in,
        d_out=profile.d_out,
        subject=request.subject,
        keys=len(recognition.keys),
        leverages=tuple(recognition.leverages.tolist()),
        guard_width=recognition.width,
        optimisation=_record(solution, recognition.agreement),
        decoys=recognition.decoys.subjects,
        aliases=request.aliases,
    )
    return PatchTensors(
        manifest=manifest,
        keys=recognition.keys.float(),
        matchers=recognition.matchers.float(),
        residual=solution.residual.cpu(),
        decoys=recognition.decoys.rows,
    )


def _record(solution: ValueSolution, agreement: float) -> OptimisationRecord:
    return OptimisationRecord(
        steps=solution.steps,
        restarts=solution.restarts,
        loss=solution.loss,
        target_probability=solution.target_probability,
        converged=solution.converged,
        residual_norm=float(solution.residual.norm()),
        clamp_fraction=solution.clamp_fraction,
        key_agreement=agreement,
    )
