"""The calls that make, promote and protect branches as data, as in `errata._calls`; pure."""

from typing import Unpack

from errata import _messages as messages
from errata import _types as types
from errata._arguments import checked
from errata._call_types import Call, Scope
from errata._options import BranchOptions, PromoteOptions, ProtectOptions
from errata.v1 import ledger_pb2

_LEDGER = "errata.v1.LedgerService"


@checked
def create_branch(
    name: str, **options: Unpack[BranchOptions]
) -> Call[ledger_pb2.CreateBranchResponse, types.Branch]:
    """Begin a branch at any revision."""
    return Call(
        method=f"/{_LEDGER}/CreateBranch",
        reply=ledger_pb2.CreateBranchResponse,
        build=lambda scope: ledger_pb2.CreateBranchRequest(
            parent=scope.model,
            branch=name,
            start=scope.revision(options.get("start", "")),
            validate_only=options.get("validate_only", False),
            **_why(scope, options),
        ),
        parse=lambda message: messages.branch(message.branch),
    )


@checked
def promote(
    source: str, target: str, **options: Unpack[PromoteOptions]
) -> Call[ledger_pb2.PromoteBranchResponse, types.Change]:
    """Move a branch forward to another."""
    return Call(
        method=f"/{_LEDGER}/PromoteBranch",
        reply=ledger_pb2.PromoteBranchResponse,
        build=lambda scope: ledger_pb2.PromoteBranchRequest(
            parent=scope.model,
            source=source,
            target=target,
            expected_revision=scope.revision(options.get("expected_revision", "")),
            validate_only=options.get("validate_only", False),
            **_why(scope, options),
        ),
        parse=messages.applied,
        acknowledges=not options.get("validate_only", False),
    )


@checked
def protect(
    branch: str, reason: str, **options: Unpack[ProtectOptions]
) -> Call[ledger_pb2.SetBranchProtectionResponse, types.Branch]:
    """Let a branch ask for approvals."""
    return _protection(branch, reason, options, protected=True)


@checked
def unprotect(
    branch: str, reason: str, **options: Unpack[ProtectOptions]
) -> Call[ledger_pb2.SetBranchProtectionResponse, types.Branch]:
    """Let a branch no longer ask for approvals."""
    return _protection(branch, reason, options, protected=False)


def _protection(
    branch: str, reason: str, options: ProtectOptions, *, protected: bool
) -> Call[ledger_pb2.SetBranchProtectionResponse, types.Branch]:
    return Call(
        method=f"/{_LEDGER}/SetBranchProtection",
        reply=ledger_pb2.SetBranchProtectionResponse,
        build=lambda scope: ledger_pb2.SetBranchProtectionRequest(
            name=scope.name("branches", branch),
            protected=protected,
            reason=reason,
            ticket=options.get("ticket", ""),
            expected_revision=scope.revision(options.get("expected_revision", "")),
            validate_only=options.get("validate_only", False),
            **scope.signature(options),
        ),
        parse=lambda message: messages.branch(message.branch),
    )


def _why(scope: Scope, options: BranchOptions | PromoteOptions) -> dict[str, str]:
    return {
        "reason": options.get("reason", ""),
        "ticket": options.get("ticket", ""),
        **scope.signature(options),
    }
