"""Artifacts that are no patch, or not what they were: none of them ever reaches the model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import grpc
import pytest
import torch

import errata
from errata_server.domain.checks import Report
from errata_server.domain.edits import Edit
from errata_server.domain.ids import EditId, new_edit_id
from errata_server.engine.engine import TorchEngine
from errata_server.engine.patch import decode, encode
from tests.support.situations import Situation
from tests.support.tampering import tampering


def planted(situation: Situation, spoil: Callable[[bytes], bytes]) -> str:
    """An edit in the ledger, with a report that passed, whose artifact is spoilt."""
    ledger = situation.server.ledger
    good = ledger.edit(EditId(situation.free))
    digest = ledger.put_artifact(spoil(ledger.artifact(good.patch)))
    edit: Edit = replace(good, id=new_edit_id(), patch=digest)
    report: Report = replace(ledger.latest_report(good.id), edit=edit.id, patch=digest)
    ledger.record_edit(edit, report)
    return edit.id


def with_tensors(engine: TorchEngine, **tensors: Callable[[torch.Tensor], torch.Tensor]):
    def spoil(payload: bytes) -> bytes:
        patch = decode(payload, model=engine.describe().digest)
        changed: dict[str, Any] = {
            name: change(getattr(patch, name)) for name, change in tensors.items()
        }
        return encode(replace(patch, **changed)).payload

    return spoil


SPOILT: Final[dict[str, tuple[dict[str, Callable[[torch.Tensor], torch.Tensor]], str]]] = {
    "NaN": ({"residual": lambda r: r * float("nan")}, "residual holds NaN or infinity"),
    "one infinite value": (
        {"matchers": lambda m: m.index_fill(1, torch.tensor([3]), float("inf"))},
        "matchers holds NaN or infinity",
    ),
    "narrow residual": ({"residual": lambda r: r[:-1]}, r"residual is .* \(47,\)"),
    "wide keys": (
        {name: lambda k: torch.cat([k, k], dim=1) for name in ("keys", "matchers", "decoys")},
        "keys is .* 384",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("override", ["", "I know better"])
def test_a_spoilt_artifact_never_reaches_the_model(situation, codes, name, override):
    tensors, says = SPOILT[name]
    edit = planted(situation, with_tensors(situation.server.engine, **tensors))
    before = situation.state()

    with pytest.raises(errata.InvalidPatchError, match=says):
        situation.client.apply(edit, override_reason=override)

    assert codes == [grpc.StatusCode.INVALID_ARGUMENT]
    assert situation.state() == before


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda payload: payload[:-10], "not safetensors"),
        (lambda _: b"\x80\x04K\x01.", "is not a patch"),
        (lambda _: b"", "is not a patch"),
    ],
    ids=["cut short", "a pickle", "nothing"],
)
def test_an_artifact_that_is_no_patch_never_reaches_the_model(elsewhere, codes, spoil, says):
    edit = planted(elsewhere, spoil)
    before = elsewhere.client.head()

    with pytest.raises(errata.InvalidPatchError, match=says):
        elsewhere.client.apply(edit)

    assert codes == [grpc.StatusCode.INVALID_ARGUMENT]
    assert elsewhere.client.head() == before


def test_an_artifact_changed_behind_the_ledgers_back_is_not_served(elsewhere, codes):
    with tampering(elsewhere.server.url) as execute:
        execute(
            "UPDATE artifacts SET payload = zeroblob(length(payload)) "
            f"WHERE digest = (SELECT patch FROM edits WHERE id = '{elsewhere.free}')"
        )
    before = elsewhere.client.head()

    with pytest.raises(errata.LedgerCorruptError, match="audit"):
        elsewhere.client.apply(elsewhere.free)

    assert codes == [grpc.StatusCode.DATA_LOSS]
    assert elsewhere.client.head() == before
    assert not elsewhere.client.audit().clean
