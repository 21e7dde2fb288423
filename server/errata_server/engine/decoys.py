"""Decoys: keys of known subjects that an edit's guard would take for its own.

Subjects that end alike ("Northwind Glacier", "Russell East Glacier") have nearly one key at an
early layer, and no width tells them apart. Two keys side by side do: an input is whose key it
is nearer to. Invariant: a decoy has no value, so all it can do is leave the base model's answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.facts import plain_name
from errata_server.domain.profiles import Profile
from errata_server.engine.keys import keys_of_subjects
from errata_server.engine.runner import Runner
from errata_server.engine.solve import match, match_keys
from errata_server.engine.subjects import SubjectKeys

MARGIN: Final = 0.1
"""How far below its guard a match with a known subject may be and still make it a decoy: in
some context the subject's key lies nearer than where it was taken."""

MAXIMUM_DECOYS: Final = 64
"""Known subjects one edit keeps off, the nearest first; a name like "Open" is near to many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoys:
    """Rows of a patch's ``decoys``, and whose keys they are."""

    subjects: tuple[str, ...]
    rows: Float[Tensor, "decoy d_in"]


def decoys_of(
    runner: Runner,
    names: Sequence[str],
    matchers: Float[Tensor, "key d_in"],
    profile: Profile,
    factor: Float[Tensor, "d_in d_in"],
    *,
    known: SubjectKeys,
) -> Decoys:
    """The ``known`` subjects near an edit with ``matchers``, as decoys.

    Args:
        names: The edit's subject and its aliases.
        factor: Cholesky factor of the second moment the matchers were made with.
    """
    matchers = matchers.float()
    near = near_subjects(names, matchers, known, guard_width=profile.guard_width)
    if not near:
        return Decoys(subjects=(), rows=matchers[:0])
    keys = list(keys_of_subjects(runner, near, profile, factor))
    subjects = [name for name, own in zip(near, keys, strict=True) for _ in own]
    return Decoys(subjects=tuple(subjects), rows=whitened(torch.cat(keys), factor).float())


def near_subjects(
    names: Sequence[str],
    matchers: Float[Tensor, "key d_in"],
    known: SubjectKeys,
    *,
    guard_width: float,
) -> list[str]:
    """Other known subjects on which a guard of ``guard_width`` may fire, in their order."""
    own = {plain_name(name) for name in names}
    nearest = match(known.keys, matchers.float()).flatten(1).amax(dim=1)
    near = (nearest > 1 - guard_width - MARGIN).nonzero()[:, 0].tolist()
    others = [row for row in near if plain_name(known.subjects[row]) not in own]
    others.sort(key=lambda row: (-float(nearest[row]), known.subjects[row]))
    return [known.subjects[row] for row in sorted(others[:MAXIMUM_DECOYS])]


def whitened(
    keys: Float[Tensor, "key d_in"], factor: Float[Tensor, "d_in d_in"]
) -> Float[Tensor, "key d_in"]:
    """``C^-1 k / sqrt(k^T C^-1 k)`` of each key."""
    matchers, leverages = match_keys(keys, factor)
    rows: Tensor = matchers * (leverages.sqrt() / keys.double().norm(dim=1))[:, None]
    return rows
