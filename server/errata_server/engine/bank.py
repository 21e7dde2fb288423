"""The side branch: live patches composed beside the edited projections.

Invariants: the base weights take no part; where no key is recognised the output is the
base's, bit for bit; a bank is immutable, so a request that holds one sees one revision; no
decoy keeps an edit from its own subject.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from errata_server.domain.facts import plain_name
from errata_server.domain.ids import Digest
from errata_server.domain.linear import LINEAR_METHODS
from errata_server.domain.patches import Composition
from errata_server.engine.architecture import projection
from errata_server.engine.hooks import rewriting
from errata_server.engine.patch import PatchTensors
from errata_server.engine.solve import directions_of, lengths_of, match, solve_linear

SCREENED: Final = 256
"""Keys from which on a single token is first held against them in float16."""

SLACK: Final = 2.0**-8
"""How far off a match by float16 may be, in lengths of the matcher: rounding matcher, input and
product once each, sums being float32, comes to less than half of it."""

LINEAR_RIDGE: Final = LINEAR_METHODS["linear"].ridge
"""Of the joint solve, in leverages of an ordinary key: their mean under C^-1 is d_in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """What the guards make of some inputs."""

    fires: Bool[Tensor, "*rows"]
    keys: Int[Tensor, "*rows"]
    """The nearest key of those whose guards open; where none does, the one that matches best."""

    matches: Float[Tensor, "*rows"]
    """Its match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedBranch:
    """Patches at one projection, each firing only where its own key is recognised.

    Of several guards that open, that of the nearest key fires, by the cosine under C^-1: at
    its own key no other edit is nearer. Where a decoy is nearer still, the input is another
    subject's, and no guard fires.
    """

    module: str
    matchers: Float[Tensor, "key d_in"]
    widths: Float[Tensor, " key"]
    residuals: Float[Tensor, "edit d_out"]
    owners: Int[Tensor, " key"]
    """Row of ``residuals`` each key belongs to."""

    scales: Float[Tensor, " key"]
    """What a match is multiplied by to be compared with a decoy's nearness."""

    decoys: Float[Tensor, "decoy d_in"]

    _thresholds: Float[Tensor, " key"] = field(init=False, repr=False, compare=False)
    """Matches above which each guard opens."""

    _halves: tuple[Float[Tensor, "key d_in"], Float[Tensor, " key"]] | None = field(
        init=False, repr=False, compare=False
    )
    """The matchers in float16, and matches by them up to which a guard surely stays shut."""

    def __post_init__(self) -> None:
        """Lay the matchers as a product with one input reads them, in the order of memory."""
        object.__setattr__(self, "matchers", self.matchers.T.contiguous().T)
        object.__setattr__(self, "_thresholds", 1 - self.widths)
        object.__setattr__(self, "_halves", None)
        plain = self.matchers.device.type == "cpu" and self.matchers.dtype == torch.float32
        if plain and len(self.matchers) >= SCREENED:
            floors = self._thresholds - SLACK * self.matchers.norm(dim=1)
            halves = self.matchers.half().contiguous()
            if bool(halves.isfinite().all()):  # else what is too large might count as small
                object.__setattr__(self, "_halves", (halves, floors))

    def nearest(self, inputs: Float[Tensor, "*rows d_in"]) -> Nearest:
        """Which guard fires on each of ``inputs``, if one does."""
        inputs = inputs.to(self.matchers.dtype)
        met, lengths = self._meet(inputs)
        return self._choose(inputs, met / lengths, self._opens(met, lengths))

    def rewrite(
        self, inputs: Float[Tensor, "batch seq d_in"], outputs: Float[Tensor, "batch seq d_out"]
    ) -> Float[Tensor, "batch seq d_out"]:
        """``outputs`` plus the residual of the nearest edit whose guard opens."""
        inputs = inputs.to(self.matchers.dtype)
        if self._all_shut(inputs):
            return outputs
        met, lengths = self._meet(inputs)
        opens = self._opens(met, lengths)
        if not bool(opens.any()):  # as at most tokens: which edit is nearest is not asked
            return outputs
        nearest = self._choose(inputs, met / lengths, opens)
        if not bool(nearest.fires.any()):
            return outputs
        owners = self.owners[nearest.keys[nearest.fires]]
        edited = outputs.clone()
        edited[nearest.fires] += self.residuals[owners].to(outputs.dtype)
        return edited

    def _all_shut(self, inputs: Float[Tensor, "*rows d_in"]) -> bool:
        """Whether a look at half the bytes tells that no guard opens on a single input.

        What one token costs is reading the matchers. Of several, they are read once for all.
        """
        if self._halves is None or inputs.numel() > inputs.shape[-1]:
            return False
        halves, floors = self._halves
        met = (inputs / lengths_of(inputs)).half() @ halves.T
        return bool((met <= floors).all())  # which is false of what is not a number

    def _meet(
        self, inputs: Float[Tensor, "*rows d_in"]
    ) -> tuple[Float[Tensor, "*rows key"], Float[Tensor, "*rows 1"]]:
        """Matches with every key times the inputs' lengths, and those."""
        return inputs @ self.matchers.T, lengths_of(inputs)

    def _opens(
        self, met: Float[Tensor, "*rows key"], lengths: Float[Tensor, "*rows 1"]
    ) -> Bool[Tensor, "*rows key"]:
        """Which guards open: their thresholds are multiplied, as dividing all costs more."""
        return met > self._thresholds * lengths

    def _choose(
        self,
        inputs: Float[Tensor, "*rows d_in"],
        matches: Float[Tensor, "*rows key"],
        opens: Bool[Tensor, "*rows key"],
    ) -> Nearest:
        best, keys = matches.max(dim=-1)
        fires = opens.any(dim=-1)
        if bool(fires.any()):
            keys, best = keys.clone(), best.clone()
            opened, shut = matches[fires], ~opens[fires]
            nearness, nearest = (opened * self.scales).masked_fill(shut, -torch.inf).max(dim=-1)
            keys[fires], best[fires] = nearest, opened.gather(-1, nearest[:, None])[:, 0]
            if len(self.decoys):
                decoyed = match(inputs[fires], self.decoys).max(dim=-1).values
                fires[fires.clone()] = nearness >= decoyed
        return Nearest(fires=fires, keys=keys, matches=best)

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything that decides what this branch computes, in a fixed order."""
        decoyed = (self.scales, self.decoys) if len(self.decoys) else ()
        return (self.matchers, self.widths, self.residuals, self.owners, *decoyed)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearBranch:
    """Patches at one projection as one weight change, kept factored."""

    module: str
    left: Float[Tensor, "d_out key"]
    right: Float[Tensor, "key d_in"]

    def rewrite(
        self, inputs: Float[Tensor, "batch seq d_in"], outputs: Float[Tensor, "batch seq d_out"]
    ) -> Float[Tensor, "batch seq d_out"]:
        """``outputs`` plus ``inputs`` through the weight change."""
        change = (inputs.to(self.right.dtype) @ self.right.T) @ self.left.T
        return outputs + change.to(outputs.dtype)

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything that decides what this branch computes, in a fixed order."""
        return (self.left, self.right)


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """The branches of every edited projection."""

    branches: tuple[GuardedBranch | LinearBranch, ...] = ()

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """Let ``model`` answer with these patches inside the block."""
        with ExitStack() as stack:
            for branch in self.branches:
                module = projection(model, branch.module)
                stack.enter_context(rewriting(module, branch.rewrite))
            yield

    def digest(self) -> Digest:
        """SHA-256 over every branch's module and tensors."""
        sha = hashlib.sha256()
        for branch in self.branches:
            sha.update(f"{type(branch).__name__}|{branch.module}|".encode())
            for tensor in branch.tensors():
                sha.update(f"{tensor.dtype}|{tuple(tensor.shape)}|".encode())
                sha.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
        return Digest(sha.hexdigest())


def compose(
    patches: Sequence[PatchTensors], composition: Composition, device: torch.device
) -> Bank:
    """``patches`` as a bank, in the order given."""
    by_module = sorted(patches, key=lambda patch: patch.manifest.module)  # stable
    build = guarded_branch if composition is Composition.GUARDED else linear_branch
    return Bank(
        tuple(
            build(module, list(group), device)
            for module, group in groupby(by_module, key=lambda patch: patch.manifest.module)
        )
    )


def guarded_branch(
    module: str, patches: Sequence[PatchTensors], device: torch.device
) -> GuardedBranch:
    """``patches`` of one projection, each behind its guard."""
    counts = torch.tensor([len(patch.keys) for patch in patches])
    widths = torch.tensor([patch.manifest.guard_width for patch in patches])
    decoys = _decoys(patches)
    width = patches[0].manifest.d_in
    return GuardedBranch(
        module=module,
        matchers=torch.cat([patch.matchers for patch in patches]).to(device),
        widths=widths.repeat_interleave(counts).to(device),
        residuals=torch.stack([patch.residual for patch in patches]).to(device),
        owners=torch.arange(len(patches)).repeat_interleave(counts).to(device),
        scales=torch.cat([patch.scales for patch in patches]).to(device),
        decoys=(torch.stack(decoys) if decoys else torch.zeros(0, width)).to(device),
    )


def _decoys(patches: Sequence[PatchTensors]) -> list[Float[Tensor, " d_in"]]:
    """The decoys of ``patches``, each once; none of a subject that one of them is about."""
    edited = {plain_name(name) for patch in patches for name in patch.manifest.names}
    rows: dict[tuple[str, str, int], Tensor] = {}
    for patch in patches:
        seen: Counter[str] = Counter()
        for name, row in zip(patch.manifest.decoys, patch.decoys, strict=True):
            if plain_name(name) not in edited:
                rows.setdefault((patch.manifest.profile, name, seen[name]), row)
            seen[name] += 1
    return list(rows.values())


def linear_branch(
    module: str, patches: Sequence[PatchTensors], device: torch.device
) -> LinearBranch:
    """``patches`` of one projection as one weight change."""
    keys = torch.cat([patch.keys for patch in patches])
    matchers = torch.cat([patch.matchers for patch in patches])
    leverages = torch.tensor([value for patch in patches for value in patch.manifest.leverages])
    residuals = torch.cat([patch.residual.expand(len(patch.keys), -1) for patch in patches])
    directions = directions_of(keys, matchers, leverages)
    left, right = solve_linear(keys, directions, residuals, LINEAR_RIDGE * keys.shape[1])
    return LinearBranch(
        module=module,
        left=left.float().contiguous().to(device),
        right=right.float().contiguous().to(device),
    )
