"""Reasons of the server become classes of the client, and gRPC stays inside."""

import asyncio

import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

import errata
from errata import _config, _errors
from errata_server.domain import errors as server_errors

OPERATION_REASONS = {"INTERRUPTED", "INTERNAL"}
"""Reasons without a class on the server: of operations that a restart or a fault cut off."""


def tree(root):
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def client_errors():
    """The public ones; `errata.testing` has one of its own."""
    return [error for error in tree(errata.ErrataError) if error.__name__ in errata.__all__]


def status(code, reason="", **metadata):
    found = status_pb2.Status(code=code, message="because")
    if reason:
        info = error_details_pb2.ErrorInfo(reason=reason, domain="errata", metadata=metadata)
        packed = any_pb2.Any()
        packed.Pack(info)
        found.details.append(packed)
    return found


def test_every_server_reason_has_a_client_error_and_no_other_has():
    reasons = {error.reason for error in tree(server_errors.ErrataError)}

    assert set(_errors.BY_REASON) == reasons | OPERATION_REASONS


def test_both_trees_have_the_same_shape():
    ours = {e.__name__: e.__base__.__name__ for e in client_errors()}
    theirs = {e.__name__: e.__base__.__name__ for e in tree(server_errors.ErrataError)}

    client_side = {
        "DeadlineError",
        "InternalError",
        "MissingExtraError",
        "OperationInterruptedError",
        "ProofError",
    }
    assert {name: base for name, base in ours.items() if name not in client_side} == theirs


def test_no_two_errors_share_a_reason():
    reasons = [error.reason for error in client_errors()]

    assert len(reasons) == len(set(reasons))


def test_a_reason_decides_the_class_and_metadata_comes_along():
    found = _errors.from_status(
        status(code_pb2.FAILED_PRECONDITION, "VERIFICATION_FAILED", failed="efficacy")
    )

    assert type(found) is errata.VerificationFailedError
    assert str(found) == "because"
    assert found.metadata == {"failed": "efficacy"}


def test_an_operation_that_a_restart_cut_off_is_not_a_stale_revision():
    found = _errors.from_status(status(code_pb2.ABORTED, "INTERRUPTED"))

    assert type(found) is errata.OperationInterruptedError


def test_a_reason_of_a_newer_server_falls_back_on_the_code():
    found = _errors.from_status(status(code_pb2.NOT_FOUND, "TRACE_NOT_FOUND"))

    assert type(found) is errata.NotFoundError


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (code_pb2.UNAVAILABLE, errata.UnavailableError),
        (code_pb2.RESOURCE_EXHAUSTED, errata.OverloadedError),
        (code_pb2.DEADLINE_EXCEEDED, errata.DeadlineError),
        (code_pb2.CANCELLED, errata.CancelledError),
        (code_pb2.INTERNAL, errata.InternalError),
        (code_pb2.UNKNOWN, errata.InternalError),
    ],
)
def test_a_status_without_a_reason_is_known_by_its_code(code, expected):
    assert type(_errors.from_status(status(code))) is expected


def test_nobody_answering_says_where_and_what_to_do():
    with (
        errata.Client("127.0.0.1:1", actor="ana") as client,
        pytest.raises(errata.UnavailableError, match="errata-server serve") as failure,
    ):
        client.model()

    assert failure.value.metadata["address"] == "127.0.0.1:1"
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__


def test_a_slow_answer_is_a_deadline_error(server):
    server.engine.step_seconds = 0.2
    with (
        errata.Client(server.address, timeout=0.5, model="scripted") as hasty,
        pytest.raises(errata.DeadlineError, match="--timeout"),
    ):
        hasty.generate("Louvre is in the city of").read()


def test_a_fault_of_the_server_is_opaque_and_internal(server, client):
    server.engine.breaks["score"] = RuntimeError("a secret path")

    with pytest.raises(errata.InternalError) as failure:
        client.score("Louvre is in", [" Paris"])

    assert "secret" not in str(failure.value)
    assert failure.value.metadata["error_id"] in str(failure.value)


def test_a_client_that_is_closed_says_so_whatever_is_asked_of_it(server):
    client = errata.Client(server.address, model="scripted")
    watched = client.watch(0)
    next(watched)
    client.close()

    for ask in (
        client.head,
        lambda: next(client.edits()),
        lambda: client.generate("x"),
        lambda: next(watched),
    ):
        with pytest.raises(errata.PreconditionError, match="closed; make another one"):
            ask()


async def test_an_asynchronous_client_that_is_closed_says_so_too(server):
    client = errata.AsyncClient(server.address, model="scripted")
    watched = client.watch(0)
    await anext(watched)
    await client.close()

    for ask in (
        client.head,
        lambda: anext(aiter(client.edits())),
        lambda: client.generate("x"),
        lambda: anext(watched),
    ):
        with pytest.raises(errata.PreconditionError, match="closed; make another one"):
            await ask()


async def test_a_task_that_is_cancelled_while_it_waits_for_the_server_stays_cancelled(server):
    async with errata.AsyncClient(server.address, model="scripted") as client:
        watched = client.watch()
        waiting = asyncio.ensure_future(anext(watched))
        await asyncio.sleep(0.2)
        waiting.cancel()

        with pytest.raises(asyncio.CancelledError):
            await waiting


@pytest.mark.parametrize("client", [errata.Client, errata.AsyncClient])
@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"timeout": 0}, "above 0 seconds and at most 604800, a week; 0 is not"),
        ({"timeout": float("inf")}, "at most 604800, a week; inf is not"),
        ({"timeout": float("nan")}, "at most 604800, a week; nan is not"),
        ({"timeout": 1e12}, "at most 604800"),
        ({"timeout": "x"}, "timeout must be a number, not 'x'"),
        ({"address": 5}, "address must be a text such as '5', not 5"),
        ({"address": "\ud800:5"}, "must look like host:port"),
        ({"actor": 5}, "actor must be a text such as '5', not 5"),
        ({"model": 5}, "model must be a text such as '5', not 5"),
    ],
)
async def test_a_client_that_cannot_be_made_says_which_argument_is_wrong(client, given, problem):
    with pytest.raises(errata.InvalidInputError, match=problem):
        client(**given)


def test_the_longest_timeout_is_one_that_grpc_waits_for(server):
    with errata.Client(
        server.address, timeout=_config.LONGEST_TIMEOUT, model="scripted"
    ) as patient:
        assert patient.head().revision.sequence == 0
