"""Edits as weight changes: what leaves for engines that know only weights.

The change is solved afresh from the edits in the order given, so it is a function of the set
and not of how the set came to be (ADR 0023). Spread over layers, each layer takes an equal
part of what is still missing: keys and states are measured again with the lower layers' changes
in place, as MEMIT does (arXiv:2210.07229). Invariants: the base weights are not written; the
lower layers' changes are seen by measuring, never assumed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.facts import EditRequest
from errata_server.domain.linear import LinearMethod
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.domain.profiles import Profile
from errata_server.engine.bank import Bank, LinearBranch
from errata_server.engine.keys import averaged
from errata_server.engine.mentions import Mentions
from errata_server.engine.moments import SecondMoment
from errata_server.engine.patch import PatchTensors
from errata_server.engine.protection import protector
from errata_server.engine.runner import Runner
from errata_server.engine.solve import solve_linear


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearEdit:
    """One edit of a weight change: what it asks, and its patch at the last layer written to."""

    request: EditRequest
    patch: PatchTensors


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightChange:
    """What one projection's weight changes by, ``D = left @ right``, in float64."""

    module: str
    layer: int
    left: Float[Tensor, "d_out rank"]
    right: Float[Tensor, "rank d_in"]


def bank_of(changes: Sequence[WeightChange], device: torch.device) -> Bank:
    """``changes`` beside the base model, so that they can be verified before they leave."""
    return Bank(
        tuple(
            LinearBranch(
                module=change.module,
                left=change.left.float().contiguous().to(device),
                right=change.right.float().contiguous().to(device),
            )
            for change in changes
        )
    )


def linear_changes(
    runner: Runner,
    edits: Sequence[LinearEdit],
    *,
    method: LinearMethod,
    profile: Profile,
    moment: Callable[[int], SecondMoment],
    progress: ReportProgress,
) -> tuple[WeightChange, ...]:
    """What ``edits`` change by ``method``, a projection each, by layer; none without edits.

    Args:
        edits: In the order of their ids, one a subject. Each patch must be of the last layer of
            ``method``'s span; `errata_server.engine.calibrate.profile_at` moves a profile there.
        profile: The model's own, of its edited layer.
        moment: The second moment at a layer.

    Raises:
        InvalidInputError: a patch is of another layer; the keys are not independent and the
            method has no ridge; a second moment does not suit the method.
        PromptTooLongError: a mention of a subject does not fit the context.
        CancelledError: ``progress`` asked for it.
    """
    span = method.span(profile.layer, runner.checkpoint.layers)
    for edit in edits:
        _require_layer(edit, span[-1], method)
    if not edits:
        return ()
    if len(span) == 1:
        return (_from_patches([edit.patch for edit in edits], method, profile, moment(span[0])),)
    spread = _Spread(runner=runner, method=method, span=span, profile=profile, moment=moment)
    return spread.changes(edits, progress)


def _require_layer(edit: LinearEdit, last: int, method: LinearMethod) -> None:
    layer = edit.patch.manifest.layer
    if layer != last:
        raise InvalidInputError(
            f"the patch for {edit.request.subject!r} is of layer {layer}, but the method "
            f"{method.name!r} wants residuals at layer {last} here; compute it there, or choose "
            "a method of one layer",
            field="method",
            method=method.name,
            layer=layer,
        )


def _from_patches(
    patches: Sequence[PatchTensors], method: LinearMethod, profile: Profile, moment: SecondMoment
) -> WeightChange:
    """The change of the patches' own layer, from their keys as stored."""
    sparing = protector(method, moment.mean().cpu(), profile.ridge)
    keys = torch.cat([patch.keys for patch in patches])
    left, right = solve_linear(
        keys,
        sparing.directions(keys),
        torch.cat([patch.residual.expand(len(patch.keys), -1) for patch in patches]),
        method.ridge * sparing.leverage,
    )
    manifest = patches[0].manifest
    return WeightChange(module=manifest.module, layer=manifest.layer, left=left, right=right)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Spread:
    """Edits that several layers share."""

    runner: Runner
    method: LinearMethod
    span: range
    profile: Profile
    moment: Callable[[int], SecondMoment]

    def changes(
        self, edits: Sequence[LinearEdit], progress: ReportProgress
    ) -> tuple[WeightChange, ...]:
        """Layer by layer, the lowest first."""
        mentions = Mentions(self.runner, [edit.request for edit in edits], self.profile.prefixes)
        last = self.span[-1]
        before = mentions.look(self.span[0], last, Bank()).states
        residuals = torch.stack([edit.patch.residual for edit in edits])
        wanted = before + residuals[mentions.owners]
        changes: list[WeightChange] = []
        for done, layer in enumerate(self.span):
            progress(Progress(stage="layers", done=done, total=len(self.span)))
            seen = mentions.look(layer, last, bank_of(changes, self.runner.device))
            missing = (wanted - seen.states) / (len(self.span) - done)
            changes.append(self._change(layer, mentions, seen.keys, missing))
        return tuple(changes)

    def _change(
        self,
        layer: int,
        mentions: Mentions,
        at_mentions: Float[Tensor, "mention d_in"],
        missing: Float[Tensor, "mention d_out"],
    ) -> WeightChange:
        sparing = protector(self.method, self.moment(layer).mean().cpu(), self.profile.ridge)
        groups = list(mentions.groups(at_mentions, sparing.factor))
        keys = averaged(at_mentions, groups)
        left, right = solve_linear(
            keys,
            sparing.directions(keys),
            averaged(missing, groups),
            self.method.ridge * sparing.leverage,
        )
        module = self.runner.checkpoint.projection_path(layer)
        return WeightChange(module=module, layer=layer, left=left, right=right)
