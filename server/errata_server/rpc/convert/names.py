"""Resource names: ``models/*``, ``models/*/edits/*`` and so on, parsed and formatted.

Invariant: parsing what was formatted gives the same ids.
"""

import re
from dataclasses import dataclass
from typing import Final

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import (
    MAIN,
    BranchName,
    Digest,
    EditId,
    ModelId,
    OperationId,
    ReportId,
    RevisionId,
)

_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Child:
    """The parts of a name below a model."""

    model: ModelId
    id: str


def model_id(name: str, field: str) -> ModelId:
    """The model of ``models/*``.

    Raises:
        InvalidInputError: the name has another form.
    """
    match name.split("/"):
        case ["models", model] if _SEGMENT.fullmatch(model):
            return ModelId(model)
    raise _malformed(name, field, "models/MODEL")


def edit_id(name: str, field: str) -> tuple[ModelId, EditId]:
    """Model and edit of ``models/*/edits/*``.

    Raises:
        InvalidInputError: the name has another form.
    """
    child = _child(name, field, "edits")
    return child.model, EditId(child.id)


def report_id(name: str, field: str) -> tuple[ModelId, ReportId]:
    """Model and report of ``models/*/reports/*``.

    Raises:
        InvalidInputError: the name has another form.
    """
    child = _child(name, field, "reports")
    return child.model, ReportId(child.id)


def proxy_digest(name: str, field: str) -> tuple[ModelId, Digest]:
    """Model and digest of ``models/*/proxies/*``.

    Raises:
        InvalidInputError: the name has another form.
    """
    child = _child(name, field, "proxies")
    return child.model, Digest(child.id)


def suite_reference(name: str, field: str) -> tuple[ModelId, str]:
    """Model and ``NAME`` or ``NAME@VERSION`` of ``models/*/suites/*``.

    Raises:
        InvalidInputError: the name has another form.
    """
    child = _child(name, field, "suites")
    return child.model, child.id


def revision_reference(name: str, field: str) -> tuple[ModelId, str]:
    """Model and reference of ``models/*/revisions/*``.

    The reference is an id, a unique prefix of one, a sequence on main or a branch.

    Raises:
        InvalidInputError: the name has another form.
    """
    child = _child(name, field, "revisions")
    return child.model, child.id


def operation_id(name: str, field: str) -> OperationId:
    """The operation of ``operations/*``.

    Raises:
        InvalidInputError: the name has another form.
    """
    match name.split("/"):
        case ["operations", operation] if _SEGMENT.fullmatch(operation):
            return OperationId(operation)
    raise _malformed(name, field, "operations/OPERATION")


def branch_name(name: str, field: str) -> BranchName:
    """A branch's own name, main where empty.

    Raises:
        InvalidInputError: it holds characters that no branch's name has.
    """
    if not name:
        return MAIN
    if not _SEGMENT.fullmatch(name) or "@" in name:
        raise _malformed(name, field, "BRANCH, such as main")
    return BranchName(name)


def given_branch(name: str, field: str) -> BranchName:
    """A branch's own name, which must be given.

    Raises:
        InvalidInputError: it is empty, or holds characters that no branch's name has.
    """
    if not name:
        raise _malformed(name, field, "BRANCH, such as canary")
    return branch_name(name, field)


def branch_of(name: str, field: str) -> tuple[ModelId, BranchName]:
    """Model and branch of ``models/*/branches/*``.

    Raises:
        InvalidInputError: the name has another form.
    """
    child = _child(name, field, "branches")
    return child.model, branch_name(child.id, field)


def bare_reference(reference: str, field: str) -> str:
    """A revision's reference without the collection in front of it.

    Raises:
        InvalidInputError: it holds characters that no reference has.
    """
    if not _SEGMENT.fullmatch(reference):
        raise _malformed(reference, field, "models/MODEL/revisions/REVISION, or REVISION alone")
    return reference


def model_name(model: ModelId) -> str:
    """``models/*``."""
    return f"models/{model}"


def edit_name(model: ModelId, edit: EditId) -> str:
    """``models/*/edits/*``."""
    return f"models/{model}/edits/{edit}"


def report_name(model: ModelId, report: ReportId) -> str:
    """``models/*/reports/*``."""
    return f"models/{model}/reports/{report}"


def proxy_name(model: ModelId, digest: Digest) -> str:
    """``models/*/proxies/*``."""
    return f"models/{model}/proxies/{digest}"


def suite_name(model: ModelId, reference: str) -> str:
    """``models/*/suites/*``."""
    return f"models/{model}/suites/{reference}"


def revision_name(model: ModelId, revision: RevisionId) -> str:
    """``models/*/revisions/*``; empty for the parent of the first revision."""
    return f"models/{model}/revisions/{revision}" if revision else ""


def branch_resource(model: ModelId, branch: BranchName) -> str:
    """``models/*/branches/*``."""
    return f"models/{model}/branches/{branch}"


def operation_name(operation: OperationId) -> str:
    """``operations/*``."""
    return f"operations/{operation}"


def _child(name: str, field: str, collection: str) -> _Child:
    match name.split("/"):
        case ["models", model, kind, child] if kind == collection:
            if _SEGMENT.fullmatch(model) and _SEGMENT.fullmatch(child):
                return _Child(model=ModelId(model), id=child)
    raise _malformed(name, field, f"models/MODEL/{collection}/ID")


def _malformed(name: str, field: str, form: str) -> InvalidInputError:
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    return InvalidInputError(
        f"{field} is {shown!r}; it must have the form {form}", field=field, value=shown
    )
