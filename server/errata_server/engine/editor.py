"""From a request to a patch: keys, then value, then the two packed together.

Everything is computed against the base model, so a patch does not depend on which others
are live.
"""

from collections.abc import Sequence
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
from errata_server.engine.decoys import Decoys, Known, Own
from errata_server.engine.keys import MAXIMUM_KEYS, Name, keys_in, keys_of_names, own_width
from errata_server.engine.patch import PatchTensors
from errata_server.engine.runner import Runner
from errata_server.engine.solve import match, match_each
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
        (recognition,) = recognise(runner, [request], profile, factor, role=role)
    with telemetry.stage("values"):
        solution = optimise_value(runner, request, profile, role=role, progress=progress)
    return assemble(runner, request, profile, recognition, solution)


def recognise(
    runner: Runner,
    requests: Sequence[EditRequest],
    profile: Profile,
    factor: Float[Tensor, "d_in d_in"],
    *,
    role: TokenRole = TokenRole.LAST_SUBJECT,
    crowd: Crowd | None = None,
) -> list[Recognition]:
    """The keys of each request's subject, and what its guard does in a ``crowd``; see `keys`.

    All of them are taken in shared passes.

    Raises:
        SubjectNotFoundError: a prompt does not name its subject.
        PromptTooLongError: a name does not fit the context behind a prefix.
    """
    names = [Name(text=one.subject, prompts=one.prompts) for one in requests]
    aliases = [Name(text=alias) for one in requests for alias in one.aliases]
    own = keys_of_names(runner, names, profile, factor, role=role)
    others = iter(keys_of_names(runner, aliases, profile, factor))
    keys = [
        torch.cat([first.keys, *(next(others).keys for _ in one.aliases)])
        for first, one in zip(own, requests, strict=True)
    ]
    nothing = Decoys(subjects=(), rows=torch.zeros(0, profile.d_in))
    found = [
        Recognition(
            keys=some,
            matchers=matchers,
            leverages=leverages,
            agreement=first.agreement,
            width=profile.guard_width,
            decoys=nothing,
        )
        for first, some, (matchers, leverages) in zip(
            own, keys, match_each(keys, factor), strict=True
        )
    ]
    if crowd is None:
        return found
    return in_crowd(runner, requests, profile, factor, found, crowd=crowd)


def in_crowd(
    runner: Runner,
    requests: Sequence[EditRequest],
    profile: Profile,
    factor: Float[Tensor, "d_in d_in"],
    found: Sequence[Recognition],
    *,
    crowd: Crowd,
) -> list[Recognition]:
    """``found`` with guards that keep off a ``crowd``, but not off the edits' own prompts.

    Where a guard does not fire on the subject in one of its request's prompts, because a decoy is
    nearer there than the edit's keys are or because it was narrowed, that mention becomes a key
    too, as long as there are no more than `MAXIMUM_KEYS` for each name: at its own key an edit is
    nearer than any decoy. The checks tell of a prompt that stays unheard.
    """
    mentions = [(prompt, one.subject) for one in requests for prompt in one.prompts]
    asked = keys_in(runner, profile.module, mentions).cpu()
    prompts = asked.split([len(one.prompts) for one in requests])
    known = Known(runner=runner, profile=profile, factor=factor, subjects=crowd.known)
    settled = list(found)
    left = list(range(len(requests)))
    while left:
        some = _kept_off([requests[i] for i in left], [settled[i] for i in left], crowd, known)
        widened: dict[int, Float[Tensor, "key d_in"]] = {}
        for place, one in zip(left, some, strict=True):
            settled[place] = one
            deaf = prompts[place][~one.guard.nearest(prompts[place]).fires]
            most = MAXIMUM_KEYS * len(requests[place].names)
            if len(deaf) and len(one.keys) < most:
                widened[place] = torch.cat([one.keys, deaf[:1]])
        matched = match_each(list(widened.values()), factor)
        for (place, keys), (matchers, leverages) in zip(widened.items(), matched, strict=True):
            settled[place] = replace(
                settled[place], keys=keys, matchers=matchers, leverages=leverages
            )
        left = list(widened)
    return settled


def _kept_off(
    requests: Sequence[EditRequest], found: Sequence[Recognition], crowd: Crowd, known: Known
) -> list[Recognition]:
    """``found``, each as wide as the crowd lets it be and with the decoys it then needs."""
    matches = match(crowd.ordinary, torch.cat([one.matchers for one in found]).float())
    parts = matches.split([len(one.matchers) for one in found], dim=1)
    own = [
        Own(
            names=request.names,
            matchers=one.matchers,
            width=own_width(part[crowd.without(request.names)], known.profile.guard_width),
        )
        for request, one, part in zip(requests, found, parts, strict=True)
    ]
    pairs = zip(found, own, known.decoys_of(own), strict=True)
    return [replace(one, width=edit.width, decoys=decoys) for one, edit, decoys in pairs]


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
