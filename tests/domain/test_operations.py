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
