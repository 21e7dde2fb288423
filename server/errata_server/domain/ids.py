"""Identifiers: one `NewType` a resource, so that mypy catches a swapped argument."""

import secrets
from typing import NewType

ModelId = NewType("ModelId", str)
"""Slug of a served model, such as ``bundled``; names the ledger's history, not a path."""

EditId = NewType("EditId", str)
RevisionId = NewType("RevisionId", str)
"""SHA-256 (hex) of the revision's canonical body."""

BranchName = NewType("BranchName", str)
ProfileId = NewType("ProfileId", str)
"""SHA-256 (hex) of the profile's canonical bytes."""

ReportId = NewType("ReportId", str)
OperationId = NewType("OperationId", str)
SuiteName = NewType("SuiteName", str)
"""What a suite's versions share."""

RequestId = NewType("RequestId", str)
Digest = NewType("Digest", str)
"""SHA-256 in hex."""

MAIN = BranchName("main")


def new_edit_id() -> EditId:
    """A fresh edit id: 12 random hex digits, short enough to type."""
    return EditId(f"e-{secrets.token_hex(6)}")


def new_operation_id() -> OperationId:
    """A fresh operation id."""
    return OperationId(f"op-{secrets.token_hex(8)}")
