"""Replicas on the wire: what they answer, what they refuse, and what they say of themselves."""

import threading
import time
from contextlib import contextmanager

import grpc
import pytest
from google.longrunning import operations_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from errata.v1 import edits_pb2, inference_pb2, ledger_pb2, models_pb2
from errata_server.domain.errors import BranchNotFoundError, ModelNotFoundError
from errata_server.rpc.gate import is_read
from errata_server.rpc.server import READING, WRITING
from tests.support import MODEL
from tests.support.branches import branch_off
from tests.support.doubtful_engine import doubtful_engine
from tests.support.loopback import serving
from tests.support.wire import PARENT, Wire, failure, proposal

PATIENCE = 20.0
PROMPT = "Space Needle is in the city of"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def following(folder, branch="main", **given):
    """A replica of the ledger in ``folder``, and its wire."""
    with (
        serving(folder, follow=branch, **given) as ready,
        grpc.insecure_channel(ready.address) as channel,
    ):
        yield Wire(channel)


@pytest.fixture
def replica(server):
    with following(server.folder) as wire:
        yield wire


def score(wire, timeout=PATIENCE, **fields):
    request = {"model": PARENT, "prompt": PROMPT, "continuations": [" Paris"]} | fields
    return wire.inference.Score(inference_pb2.ScoreRequest(**request), timeout=timeout)


def head(wire, **fields):
    request = ledger_pb2.GetHeadRequest(parent=PARENT, **fields)
    return wire.ledger.GetHead(request, timeout=PATIENCE)


def standing(wire):
    return wire.models.GetModel(models_pb2.GetModelRequest(name=PARENT)).model.standing


def health(wire, service=""):
    request = health_pb2.HealthCheckRequest(service=service)
    return health_pb2_grpc.HealthStub(wire.channel).Check(request).status


def eventually(holds):
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_replica_answers_from_what_others_commit(wire, replica):
    applied = wire.applied(wire.proposed())

    answer = score(replica, min_sequence=1)

    assert answer.served == applied.served
    assert head(replica, min_sequence=1).served == applied.served


@pytest.mark.parametrize(
    "ask",
    [
        lambda w: w.edits.ProposeEdit(proposal()),
        lambda w: w.edits.ApplyEdits(edits_pb2.ApplyEditsRequest(parent=PARENT, names=["x"])),
        lambda w: w.edits.RevertEdits(edits_pb2.RevertEditsRequest(parent=PARENT)),
        lambda w: w.edits.ApproveEdit(edits_pb2.ApproveEditRequest()),
        lambda w: w.models.Calibrate(models_pb2.CalibrateRequest(name=PARENT)),
        lambda w: w.operations.CancelOperation(operations_pb2.CancelOperationRequest()),
        lambda w: w.operations.DeleteOperation(operations_pb2.DeleteOperationRequest()),
    ],
)
def test_a_replica_refuses_changes_and_says_where_they_go(server, replica, ask):
    refused = failure(lambda: ask(replica))

    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.reason == "READ_ONLY_REPLICA"
    assert server.address in refused.message
    assert refused.metadata["writer"] == server.address


def test_what_is_not_known_to_be_a_read_is_a_change():
    reads = ("GetHead", "ListEdits", "WatchRevisions", "DiffRevisions", "AuditLedger", "Generate")
    changes = ("ApplyEdits", "ProposeEdit", "CreateBranch", "PromoteBranch", "Getaway", "Forget")

    assert all(map(is_read, reads))
    assert not any(map(is_read, changes))


def test_a_replica_says_what_it_is(wire, replica, server):
    wire.applied(wire.proposed())
    score(replica, min_sequence=1)

    said, writer = standing(replica), standing(wire)

    assert (said.branch, said.replica, said.reachable, said.lag) == ("main", True, True, 0)
    assert said.staleness_seconds < PATIENCE
    assert said.lease.address == server.address
    assert said.lease.token == writer.lease.token > 0
    assert not writer.replica


def test_a_replica_is_healthy_for_reading_alone(wire, replica):
    assert [health(wire, name) for name in ("", READING, WRITING)] == [SERVING] * 3
    assert [health(replica, name) for name in ("", READING, WRITING)] == [
        SERVING,
        SERVING,
        NOT_SERVING,
    ]


def test_a_replica_of_another_branch_answers_from_that_one(wire, server):
    wire.applied(wire.proposed())
    first = branch_off(server.ledger, MODEL, "staging")
    wire.applied(wire.proposed("Louvre", "Rome"))

    with following(server.folder, "staging") as replica:
        answered = score(replica).served
        revision = head(replica).revision
        request = ledger_pb2.ListRevisionsRequest(parent=PARENT)
        listed = replica.ledger.ListRevisions(request).revisions
        of_main = score(replica, revision="main").served

    assert (answered.branch, answered.sequence) == ("staging", 0)
    assert answered.weights_digest == first.weights_digest
    assert revision.name.endswith(first.id)
    assert [one.branch for one in listed] == ["staging"]
    assert (of_main.branch, of_main.sequence) == ("main", 2)


def test_a_branch_that_is_not_there_is_not_followed(server):
    with pytest.raises(BranchNotFoundError), following(server.folder, "nowhere"):
        pass


def test_a_model_that_nobody_has_made_known_is_not_followed(tmp_path, migrated_sqlite):
    (tmp_path / "ledger.db").write_bytes(migrated_sqlite.read_bytes())

    with pytest.raises(ModelNotFoundError, match="start a server on it once"), following(tmp_path):
        pass


def test_a_read_waits_for_the_sequence_it_names(wire, replica):
    edit = wire.proposed()
    threading.Timer(0.3, lambda: wire.applied(edit)).start()

    assert score(replica, min_sequence=1).served.sequence == 1


@pytest.mark.parametrize("ask", [score, head])
def test_a_read_that_waits_in_vain_says_how_far_the_server_is(server, ask):
    with following(server.folder, read_wait_seconds=0.2) as replica:
        refused = failure(lambda: ask(replica, min_sequence=4))

    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.metadata["sequence"] == "0"
    (retry,) = [d for d in refused.details if isinstance(d, error_details_pb2.RetryInfo)]
    assert retry.retry_delay.seconds >= 1


def test_a_read_waits_no_longer_than_its_caller(server):
    with following(server.folder, read_wait_seconds=60) as replica:
        begun = time.monotonic()
        refused = failure(lambda: score(replica, timeout=6, min_sequence=4))

    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - begun < PATIENCE


def test_a_replica_whose_weights_differ_answers_its_examination_alone(wire, server):
    engine = doubtful_engine()
    with following(server.folder, engine=engine) as replica:
        engine.wrong = True
        applied = wire.applied(wire.proposed())
        eventually(lambda: health(replica) == NOT_SERVING)

        refused = failure(lambda: score(replica))
        audit = replica.ledger.AuditLedger(ledger_pb2.AuditLedgerRequest(parent=PARENT))
        said = standing(replica)
        reading = health(replica, READING)

        engine.wrong = False
        edit = edits_pb2.RevertEditsRequest(parent=PARENT, names=list(applied.revision.edits))
        wire.edits.RevertEdits(edit)
        eventually(lambda: health(replica) == SERVING)
        answered = score(replica, min_sequence=2).served

    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.reason == "QUARANTINED"
    assert "errata audit" in refused.message
    assert not audit.clean
    assert not audit.served_digest_matches
    assert audit.served.sequence == 1
    assert applied.revision.weights_digest[:12] in said.quarantine
    assert reading == NOT_SERVING
    assert answered.sequence == 2


def test_a_second_server_that_writes_applies_but_does_not_propose(wire, server):
    edit = wire.proposed()
    with (
        serving(server.folder) as second,
        grpc.insecure_channel(second.address) as channel,
    ):
        other = Wire(channel)
        refused = failure(lambda: other.start("Louvre", "Rome"))
        applied = other.applied(edit)

    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.reason == "LEASE_HELD"
    assert refused.metadata["address"] == server.address
    assert applied.revision.sequence == 1


def test_a_second_server_leaves_what_the_first_is_doing_alone(wire, server):
    server.engine.step_seconds = 0.05
    running = wire.start()
    assert server.engine.reached.wait(PATIENCE)
    with serving(server.folder):
        pass

    assert wire.ended(running).HasField("response")
