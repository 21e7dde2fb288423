"""What many live patches do together, predicted from their keys without a forward pass.

Invariant: the side branch and the weight change looked at are those that would be served.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata_server.domain.health import LayerStrain
from errata_server.engine.architecture import projection
from errata_server.engine.bank import GuardedBranch, guarded_branch, linear_branch
from errata_server.engine.inspection import whitened_cosines
from errata_server.engine.moments import SecondMoment
from errata_server.engine.patch import PatchTensors
from errata_server.engine.runner import Runner
from errata_server.engine.solve import disturbance

NO_OTHER = -1
"""In place of the nearest patch, where there is no other at the same projection."""


def strains(
    runner: Runner,
    patches: Sequence[PatchTensors],
    *,
    moment: Callable[[int], SecondMoment],
    texts: Sequence[str],
) -> tuple[LayerStrain, ...]:
    """The strain of each layer with patches, by layer.

    Args:
        moment: The second moment at a layer, with its sample of ordinary keys.
        texts: What the sample came from.
    """
    ordered = sorted(patches, key=lambda patch: patch.manifest.layer)  # stable
    return tuple(
        _strain(runner, list(group), moment(layer), texts)
        for layer, group in groupby(ordered, key=lambda patch: patch.manifest.layer)
    )


def _strain(
    runner: Runner, patches: Sequence[PatchTensors], moment: SecondMoment, texts: Sequence[str]
) -> LayerStrain:
    first = patches[0].manifest
    cpu = torch.device("cpu")
    guarded = guarded_branch(first.module, patches, cpu)
    linear = linear_branch(first.module, patches, cpu)
    subjects = [patch.manifest.subject for patch in patches]
    return LayerStrain(
        layer=first.layer,
        module=first.module,
        live_edits=len(patches),
        keys=len(guarded.matchers),
        width=first.d_in,
        firings=_foreign_firings(guarded, moment, subjects, texts),
        ordinary_keys=len(moment.sample),
        disturbance=disturbance(linear.left, linear.right, moment.mean())
        / ordinary_energy(runner, first.module, moment),
    )


def _foreign_firings(
    branch: GuardedBranch, moment: SecondMoment, subjects: Sequence[str], texts: Sequence[str]
) -> int:
    """Sampled keys a guard fires on though their text does not name its subject."""
    nearest = branch.nearest(moment.sample.float())
    rows: Int[Tensor, " row"] = moment.sample_texts[nearest.fires]
    owners: Int[Tensor, " row"] = branch.owners[nearest.keys[nearest.fires]]
    pairs = zip(rows.tolist(), owners.tolist(), strict=True)
    return sum(subjects[owner] not in texts[text] for text, owner in pairs)


def ordinary_energy(runner: Runner, module: str, moment: SecondMoment) -> float:
    """Mean squared length of what the projection makes of ordinary keys, bias left out."""
    target = projection(runner.checkpoint.model, module)

    def step() -> Float[Tensor, "key d_out"]:
        keys = moment.sample.to(device=runner.device, dtype=runner.model.dtype)
        outputs: Tensor = target(keys) - target(torch.zeros_like(keys[:1]))
        return outputs

    return float(runner.run(step).double().square().sum(dim=1).mean())


def nearest_patches(patches: Sequence[PatchTensors]) -> list[tuple[int, float]]:
    """For each patch the other one it conflicts with most, and that conflict.

    `NO_OTHER` and 0 where no other patch is at its projection.
    """
    found = [(NO_OTHER, 0.0)] * len(patches)
    by_module = sorted(range(len(patches)), key=lambda index: patches[index].manifest.module)
    for _, group in groupby(by_module, key=lambda index: patches[index].manifest.module):
        members = list(group)
        if len(members) > 1:
            nearest = _nearest_of([patches[index] for index in members])
            for index, (other, conflict) in zip(members, nearest, strict=True):
                found[index] = (members[other], conflict)
    return found


def _nearest_of(patches: Sequence[PatchTensors]) -> list[tuple[int, float]]:
    """As `nearest_patches`, for two or more patches of one projection."""
    keys = torch.cat([patch.keys for patch in patches])
    matchers = torch.cat([patch.matchers for patch in patches])
    leverages = torch.tensor([value for patch in patches for value in patch.manifest.leverages])
    owners = torch.arange(len(patches)).repeat_interleave(
        torch.tensor([len(patch.keys) for patch in patches])
    )
    found = []
    for owner, patch in enumerate(patches):  # a row of the matrix at a time
        own = torch.tensor(patch.manifest.leverages)
        cosines = whitened_cosines(patch.keys, own, (keys, matchers, leverages))
        cosines[:, owners == owner] = -torch.inf
        conflict, place = cosines.max(dim=0).values.max(dim=0)
        found.append((int(owners[place]), float(conflict)))
    return found
