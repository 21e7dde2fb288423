import pytest

from errata_server.domain.ids import Digest, RequestId, new_operation_id
from errata_server.domain.operations import (
    Operation,
    OperationKind,
    OperationState,
    Progress,
)
from tests.support import MODEL, NOON


@pytest.mark.parametrize("state", OperationState)
def test_only_a_running_operation_is_not_done(state):
    operation = Operation(
        id=new_operation_id(),
        model=MODEL,
        kind=OperationKind.PROPOSE,
        state=state,
        progress=Progress(stage="values", done=1, total=2),
        request_id=RequestId("r-1"),
        request_digest=Digest("d" * 64),
        actor="ana",
        created_at=NOON,
    )

    assert operation.done == (state is not OperationState.RUNNING)


@pytest.mark.parametrize("kind", OperationKind)
def test_a_kind_is_read_by_its_name(kind):
    assert OperationKind.read(kind.value) is kind


def test_a_kind_of_a_newer_server_is_read_as_another():
    assert OperationKind.read("export_adapter") is OperationKind.OTHER
