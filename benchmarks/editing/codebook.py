"""A codebook at a later layer, keyed on the state of the prompt's last token.

After GRACE (arXiv:2211.11031): the output of the projection is replaced by the value of the
nearest key within that key's radius; two keys with different targets share the distance
between them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.editing.cases import Case
from benchmarks.editing.workbench import Workbench
from errata_server.domain.traces import TokenRole
from errata_server.engine.architecture import projection
from errata_server.engine.hooks import rewriting
from errata_server.engine.keys import keys_at_subject

DEPTH: Final = 0.6
"""Where in the model the codebook sits: the last token has read its prompt by then."""

RADIUS: Final = 0.5
"""Of a lone key, as a share of its length."""


@dataclass(slots=True)
class Entry:
    """One edit in the codebook."""

    key: Float[Tensor, " d_in"]
    value: Float[Tensor, " d_out"]
    radius: float
    target: str


class Codebook:
    """Entries, and the hook that looks them up."""

    def __init__(self, bench: Workbench) -> None:
        checkpoint = bench.runner.checkpoint
        layer = min(round(DEPTH * checkpoint.layers), checkpoint.layers - 1)
        self._bench = bench
        self._profile = replace(
            bench.profile, layer=layer, module=checkpoint.projection_path(layer)
        )
        self._module = projection(checkpoint.model, self._profile.module)
        self._entries: list[Entry] = []

    def add(self, case: Case) -> None:
        """An entry for ``case``, computed on the base model."""
        bench, last = self._bench, TokenRole.LAST
        patch = bench.patch(case.request, profile=self._profile, role=last)
        if patch is None:
            return
        key = keys_at_subject(
            bench.runner,
            self._profile.module,
            [case.efficacy.prompt],
            case.request.subject,
            role=last,
        )[0]
        said: Tensor = bench.runner.run(lambda: self._module(key[None])[0])
        entry = Entry(
            key=key,
            value=said + patch.residual.to(said.device),
            radius=RADIUS * float(key.norm()),
            target=case.target,
        )
        self._share(entry)
        self._entries.append(entry)

    def _share(self, entry: Entry) -> None:
        """Let ``entry`` and those of other targets that it meets keep half the way each."""
        for other in self._entries:
            distance = float((other.key - entry.key).norm())
            if other.target != entry.target and distance < other.radius + entry.radius:
                other.radius = min(other.radius, distance / 2)
                entry.radius = min(entry.radius, distance / 2)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the model answer from the codebook inside the block."""
        keys = torch.stack([entry.key for entry in self._entries])
        values = torch.stack([entry.value for entry in self._entries])
        radii = torch.tensor([entry.radius for entry in self._entries], device=keys.device)

        def look_up(inputs: Tensor, outputs: Tensor) -> Tensor:
            distances, nearest = torch.cdist(inputs.float(), keys).min(dim=-1)
            found = distances < radii[nearest]
            return torch.where(found[..., None], values[nearest].to(outputs.dtype), outputs)

        with rewriting(self._module, look_up):
            yield
