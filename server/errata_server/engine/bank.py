"""The side branch: live patches composed beside the edited projections.

Invariants: the base weights take no part; where no key is recognised the output is the
base's, bit for bit; a bank is immutable, so a request that holds one sees one revision.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from errata_server.domain.ids import Digest
from errata_server.domain.patches import Composition
from errata_server.engine.architecture import projection
from errata_server.engine.hooks import rewriting
from errata_server.engine.patch import PatchTensors
from errata_server.engine.solve import match, solve_linear

LINEAR_RIDGE: Final = 0.1
"""lambda of the joint solve; keeps near-parallel keys from blowing each other up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedBranch:
    """Patches at one projection, each firing only where its own key is recognised."""

    module: str
    matchers: Float[Tensor, "key d_in"]
    widths: Float[Tensor, " key"]
    residuals: Float[Tensor, "edit d_out"]
    owners: Int[Tensor, " key"]
    """Row of ``residuals`` each key belongs to."""

    def rewrite(
        self, inputs: Float[Tensor, "batch seq d_in"], outputs: Float[Tensor, "batch seq d_out"]
    ) -> Float[Tensor, "batch seq d_out"]:
        """``outputs`` plus the residual of the edit that matches best, where within its guard."""
        best, nearest = match(inputs.to(self.matchers.dtype), self.matchers).max(dim=-1)
        fires = best > 1 - self.widths[nearest]
        edited = outputs + self.residuals[self.owners[nearest]].to(outputs.dtype)
        return torch.where(fires[..., None], edited, outputs)

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything that decides what this branch computes, in a fixed order."""
        return (self.matchers, self.widths, self.residuals, self.owners)


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
    return GuardedBranch(
        module=module,
        matchers=torch.cat([patch.matchers for patch in patches]).to(device),
        widths=widths.repeat_interleave(counts).to(device),
        residuals=torch.stack([patch.residual for patch in patches]).to(device),
        owners=torch.arange(len(patches)).repeat_interleave(counts).to(device),
    )


def linear_branch(
    module: str, patches: Sequence[PatchTensors], device: torch.device
) -> LinearBranch:
    """``patches`` of one projection as one weight change."""
    leverages = torch.tensor([value for patch in patches for value in patch.manifest.leverages])
    residuals = torch.cat([patch.residual.expand(len(patch.keys), -1) for patch in patches])
    left, right = solve_linear(
        torch.cat([patch.keys for patch in patches]),
        torch.cat([patch.matchers for patch in patches]),
        leverages.double(),
        residuals,
        LINEAR_RIDGE,
    )
    return LinearBranch(
        module=module,
        left=left.float().contiguous().to(device),
        right=right.float().contiguous().to(device),
    )
