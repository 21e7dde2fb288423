"""Decoys: keys of known subjects that an edit's guard would take for its own.

Subjects that end alike ("Northwind Glacier", "Russell East Glacier") have nearly one key at an
early layer, and no width tells them apart. Two keys side by side do: an input is whose key it
is nearer to. Invariant: a decoy has no value, so all it can do is leave the base model's answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.facts import plain_name
from errata_server.domain.profiles import Profile
from errata_server.engine.keys import Name, keys_of_names
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What an edit has of its own, for others to be told apart from."""

    names: tuple[str, ...]
    """Its subject and its aliases."""

    matchers: Float[Tensor, "key d_in"]
    width: float


@dataclass(slots=True, kw_only=True)
class Known:
    """Known subjects as decoys, each computed once, when it first is one."""

    runner: Runner
    profile: Profile
    factor: Float[Tensor, "d_in d_in"]
    """Cholesky factor of the second moment the edits' matchers were made with."""

    subjects: SubjectKeys
    _rows: dict[str, Float[Tensor, "key d_in"]] = field(default_factory=dict)

    def decoys_of(self, edits: Sequence[Own]) -> list[Decoys]:
        """For each of ``edits`` the known subjects near it, as decoys."""
        near = near_subjects(edits, self.subjects)
        fresh = [name for names in near for name in names if name not in self._rows]
        self._compute(list(dict.fromkeys(fresh)))
        return [self._decoys(names) for names in near]

    def _compute(self, subjects: Sequence[str]) -> None:
        names = [Name(text=subject) for subject in subjects]
        found = [one.keys for one in keys_of_names(self.runner, names, self.profile, self.factor)]
        if found:
            rows = whitened(torch.cat(found), self.factor).float()
            sizes = [len(keys) for keys in found]
            self._rows |= zip(subjects, rows.split(sizes), strict=True)

    def _decoys(self, subjects: Sequence[str]) -> Decoys:
        rows = [self._rows[subject] for subject in subjects]
        return Decoys(
            subjects=tuple(name for name, own in zip(subjects, rows, strict=True) for _ in own),
            rows=torch.cat(rows) if rows else torch.zeros(0, self.profile.d_in),
        )


def near_subjects(edits: Sequence[Own], known: SubjectKeys) -> list[list[str]]:
    """For each of ``edits`` the other known subjects its guard may fire on, in their order."""
    matchers = torch.cat([edit.matchers for edit in edits]).float()
    matches = match(known.keys, matchers).amax(dim=1)  # subject by key
    parts = matches.split([len(edit.matchers) for edit in edits], dim=1)
    return [
        _nearest(edit, own.amax(dim=1), known.subjects)
        for edit, own in zip(edits, parts, strict=True)
    ]


def _nearest(edit: Own, matches: Float[Tensor, " subject"], subjects: Sequence[str]) -> list[str]:
    own = {plain_name(name) for name in edit.names}
    near = (matches > 1 - edit.width - MARGIN).nonzero()[:, 0].tolist()
    others = [row for row in near if plain_name(subjects[row]) not in own]
    others.sort(key=lambda row: (-float(matches[row]), subjects[row]))
    return [subjects[row] for row in sorted(others[:MAXIMUM_DECOYS])]


def whitened(
    keys: Float[Tensor, "key d_in"], factor: Float[Tensor, "d_in d_in"]
) -> Float[Tensor, "key d_in"]:
    """``C^-1 k / sqrt(k^T C^-1 k)`` of each key."""
    matchers, leverages = match_keys(keys, factor)
    rows: Tensor = matchers * (leverages.sqrt() / keys.double().norm(dim=1))[:, None]
    return rows
