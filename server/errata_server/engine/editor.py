"""From a request to a patch: keys, then value, then the two packed together.

Everything is computed against the base model, so a patch does not depend on which others
are live.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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
from errata_server.engine.keys import (
    MAXIMUM_KEYS,
    MINIMUM_AGREEMENT,
    keys_at_subject,
    prefixed_keys,
)
from errata_server.engine.patch import PatchTensors
from errata_server.engine.runner import Runner
from errata_server.engine.solve import match, match_keys
from errata_server.engine.values import ValueSolution, optimise_value

OF_SUBJECT: Final = frozenset({TokenRole.FIRST_SUBJECT, TokenRole.LAST_SUBJECT})
"""Roles of tokens that the bare subject has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """How an edit knows its subject: keys with their matchers."""

    keys: Float[Tensor, "key d_in"]
    matchers: Float[Tensor, "key d_in"]
    leverages: Float[Tensor, " key"]
    agreement: float
    """rho_u: the unprefixed key's match with the averaged key."""


def compute_patch(
    runner: Runner,
    request: EditRequest,
    profile: Profile,
    factor: Float[Tensor, "d_in d_in"],
    *,
    role: TokenRole = TokenRole.LAST_SUBJECT,
    progress: ReportProgress,
) -> PatchTensors:
    """The patch that makes ``request`` true, converged or not.

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
) -> Recognition:
    """The keys of ``request``'s subject; see `subject_keys`."""
    prompts = [fact.prompt(request.subject) for fact in request.facts]
    keys, agreement = subject_keys(
        runner, request.subject, profile, factor, prompts=prompts, role=role
    )
    matchers, leverages = match_keys(keys, factor)
    return Recognition(keys=keys, matchers=matchers, leverages=leverages, agreement=agreement)


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
        guard_width=profile.guard_width,
        optimisation=_record(solution, recognition.agreement),
    )
    return PatchTensors(
        manifest=manifest,
        keys=recognition.keys.float(),
        matchers=recognition.matchers.float(),
        residual=solution.residual.cpu(),
    )


def subject_keys(
    runner: Runner,
    subject: str,
    profile: Profile,
    factor: Float[Tensor, "d_in d_in"],
    *,
    prompts: Sequence[str] = (),
    role: TokenRole = TokenRole.LAST_SUBJECT,
) -> tuple[Float[Tensor, "key d_in"], float]:
    """(keys, rho_u): the averaged key, and more of the same value where it falls short.

    The average is over every prefix, the bare subject included. Where it would miss the bare
    subject (often another tokenisation: no space before it), mixing the two serves neither,
    so the prefixed average and the unprefixed key become two keys. The subject's key in one
    of ``prompts`` that still goes unrecognised becomes a key too, `MAXIMUM_KEYS` in all. A
    token behind the subject has its keys in the first of ``prompts``, there being none in the
    bare subject.
    """
    text = subject if role in OF_SUBJECT else prompts[0]
    prefixed, bare = prefixed_keys(
        runner, profile.module, subject, profile.prefixes, role=role, bare=text
    )
    prefixed, bare = prefixed.cpu(), bare.cpu()
    averaged = torch.cat([prefixed, bare[None]]).mean(dim=0)
    matchers, _ = match_keys(averaged[None], factor)
    agreement = float(match(bare[None].double(), matchers))
    covered = agreement >= MINIMUM_AGREEMENT
    keys = averaged[None] if covered else torch.stack([prefixed.mean(dim=0), bare])
    if prompts:
        asked = keys_at_subject(runner, profile.module, prompts, subject, role=role).cpu()
        keys = _widened(keys, asked, factor)
    return keys, agreement


def _widened(
    keys: Float[Tensor, "key d_in"],
    asked: Float[Tensor, "prompt d_in"],
    factor: Float[Tensor, "d_in d_in"],
) -> Float[Tensor, "row d_in"]:
    """``keys`` and, worst first, those of ``asked`` that they do not recognise."""
    while len(keys) < MAXIMUM_KEYS:
        matches = match(asked.double(), match_keys(keys, factor)[0]).max(dim=1).values
        if float(matches.min()) >= MINIMUM_AGREEMENT:
            break
        keys = torch.cat([keys, asked[int(matches.argmin())][None]])
    return keys


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
