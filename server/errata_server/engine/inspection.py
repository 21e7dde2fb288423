"""Looking at a patch's keys and guard: where it fires, and on what it should not.

One forward pass to the edited layer at most; the model's answers are not needed.
"""

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server.domain.ids import EditId
from errata_server.domain.measurements import PatchInspection
from errata_server.engine.bank import GuardedBranch, guarded_branch
from errata_server.engine.moments import SecondMoment
from errata_server.engine.patch import PatchTensors
from errata_server.engine.recall import Recall
from errata_server.engine.tokens import join

UNSEEN: Final = (
    "",
    "Yesterday they spoke about",
    "She had read a great deal about",
    "The last chapter of the book is about",
    "Nobody in the room had heard of",
    "It rained all week. In the end we wrote a page on",
    "When the bell rang, the teacher asked about",
    "Two old friends were arguing about",
)
"""Contexts no profile uses as prefixes: the guard must know its subject behind them too."""


def unseen_mentions(names: Sequence[str]) -> list[tuple[str, str]]:
    """(text, name) of every way in which a guard must know each of ``names``."""
    return [(join(lead, name), name) for name in names for lead in UNSEEN]


def inspect(
    recall: Recall,
    patch: PatchTensors,
    *,
    moment: SecondMoment,
    moment_texts: Sequence[str],
    live: Sequence[tuple[EditId, PatchTensors]],
    neighbours: Sequence[str],
) -> PatchInspection:
    """Everything the guard's checks need of ``patch``.

    Args:
        moment: Holds the stored sample of ordinary keys.
        moment_texts: The texts the sample came from; those naming the subject are left out.
        live: Patches live beside this one, that of the same subject excepted.
        neighbours: Prompts on other subjects.
    """
    mentions = unseen_mentions(patch.manifest.names)
    texts = [text for text, _ in mentions]
    ends = [recall.runner.tokens.subject_end(text, name) for text, name in mentions]
    keys = recall.keys(texts, patch.manifest.module)
    own = torch.stack([rows[end] for rows, end in zip(keys, ends, strict=True)])
    quiet = moment.without(moment_texts, patch.manifest.names)
    conflicts = sorted(
        ((edit, _whitened_cosine(patch, other)) for edit, other in live),
        key=lambda row: (-row[1], row[0]),
    )
    return PatchInspection(
        finite=all(bool(torch.isfinite(t).all()) for t in (patch.matchers, patch.residual)),
        own_matches=tuple(zip(texts, best_matches(patch, own).tolist(), strict=True)),
        corpus_firings=int((_fires(patch, moment.sample) & quiet).sum()),
        corpus_keys=int(quiet.sum()),
        neighbour_matches=_prompt_matches(recall, patch, neighbours),
        conflicts=tuple(conflicts),
        fires_on_live=tuple(
            edit
            for edit, other in live
            if other.manifest.module == patch.manifest.module
            and bool(_fires(patch, other.keys).any())
        ),
    )


def best_matches(patch: PatchTensors, keys: Float[Tensor, "row d_in"]) -> Float[Tensor, " row"]:
    """For each row, the best match over the patch's keys; 0 where a decoy keeps it off."""
    nearest = _alone(patch).nearest(keys.cpu())
    decoyed = (nearest.matches > 1 - patch.manifest.guard_width) & ~nearest.fires
    return nearest.matches.masked_fill(decoyed, 0.0)


def _fires(patch: PatchTensors, keys: Float[Tensor, "row d_in"]) -> Tensor:
    return _alone(patch).nearest(keys.cpu()).fires


def _alone(patch: PatchTensors) -> GuardedBranch:
    return guarded_branch(patch.manifest.module, [patch], torch.device("cpu"))


def _whitened_cosine(patch: PatchTensors, other: PatchTensors) -> float:
    """``k_i^T C^-1 k_j`` over the norms, from the stored matchers; largest over the keys."""
    if patch.manifest.module != other.manifest.module:
        return 0.0
    own, theirs = (torch.tensor(p.manifest.leverages) for p in (patch, other))
    return float(whitened_cosines(patch.keys, own, (other.keys, other.matchers, theirs)).max())


def whitened_cosines(
    keys: Float[Tensor, "row d_in"],
    leverages: Float[Tensor, " row"],
    others: tuple[Float[Tensor, "key d_in"], Float[Tensor, "key d_in"], Float[Tensor, " key"]],
) -> Float[Tensor, "row key"]:
    """Cosines under C^-1 of keys with other keys, given with matchers and leverages."""
    other_keys, matchers, other_leverages = others
    scales = other_leverages.sqrt() / other_keys.norm(dim=1)
    cosines: Tensor = (keys @ matchers.T) * scales[None, :] / leverages.sqrt()[:, None]
    return cosines


def _prompt_matches(
    recall: Recall, patch: PatchTensors, prompts: Sequence[str]
) -> tuple[tuple[str, float], ...]:
    found = recall.keys(prompts, patch.manifest.module)
    return tuple(
        (prompt, float(best_matches(patch, keys).max()))
        for prompt, keys in zip(prompts, found, strict=True)
    )
