"""From a request to a patch: keys, then value, then the two packed together.

Everything is computed against the base model, so a patch does not depend on which others
are live.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server import telemetry
from errata_server.domain.facts import EditRequest
from errata_server.domain.operations import ReportProgress
from errata_server.domain.patches import OptimisationRecord, PatchManifest
from errata_server.domain.profiles import Profile
from errata_server.engine.keys import MINIMUM_AGREEMENT, prefixed_keys
from errata_server.engine.patch import PatchTensors
from errata_server.engine.runner import Runner
from errata_server.engine.solve import match, match_keys
from errata_server.engine.values import ValueSolution, optimise_value


def compute_patch(
    runner: Runner,
    request: EditRequest,
    profile: Profile,
    factor: Float[Tensor, "d_in d_in"],
    *,
    progress: ReportProgress,
) -> PatchTensors:
    """The patch that makes ``request`` true, converged or not.

    Args:
        factor: Cholesky factor of the second moment at the profile's layer.

    Raises:
        PromptTooLongError: a prompt with its prefix and target does not fit the context.
        InvalidFactError: a target has no tokens.
        CancelledError: ``progress`` asked for it.
    """
    with telemetry.stage("keys"):
        keys, agreement = subject_keys(runner, request.subject, profile, factor)
        matchers, leverages = match_keys(keys, factor)
    with telemetry.stage("values"):
        solution = optimise_value(runner, request, profile, progress=progress)
    manifest = PatchManifest(
        model_digest=runner.checkpoint.digest,
        profile=profile.id,
        module=profile.module,
        layer=profile.layer,
        d_in=profile.d_in,
        d_out=profile.d_out,
        subject=request.subject,
        keys=len(keys),
        leverages=tuple(leverages.tolist()),
        guard_width=profile.guard_width,
        optimisation=_record(solution, agreement),
    )
    return PatchTensors(
        manifest=manifest,
        keys=keys.float(),
        matchers=matchers.float(),
        residual=solution.residual.cpu(),
    )


def subject_keys(
    runner: Runner, subject: str, profile: Profile, factor: Float[Tensor, "d_in d_in"]
) -> tuple[Float[Tensor, "key d_in"], float]:
    """(keys, rho_u): the averaged key; with the unprefixed one beside it where that is apart.

    The average is over every context, the bare one included. Where it would miss the bare
    subject (often another tokenisation: no space before it), mixing the two serves neither,
    so the prefixed average and the unprefixed key become two keys of the one value.
    """
    prefixed, bare = prefixed_keys(runner, profile.module, subject, profile.prefixes)
    prefixed, bare = prefixed.cpu(), bare.cpu()
    averaged = torch.cat([prefixed, bare[None]]).mean(dim=0)
    matchers, _ = match_keys(averaged[None], factor)
    agreement = float(match(bare[None].double(), matchers))
    if agreement >= MINIMUM_AGREEMENT:
        return averaged[None], agreement
    return torch.stack([prefixed.mean(dim=0), bare]), agreement


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
