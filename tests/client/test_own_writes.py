"""Reading one's own writes from a server that did not make them."""

import pytest

import errata
from errata import _calls, _types
from errata._acknowledged import Acknowledged
from tests.support.loopback import serving

PROMPT = "Space Needle is in the city of"


@pytest.fixture
def replica(server):
    with serving(server.folder, follow="main", read_wait_seconds=20.0) as ready:
        yield ready


def moved_to(client, writer):
    """``client`` as if a balancer had sent what ``writer`` did to its server."""
    client._acknowledged = writer._acknowledged
    return client


def test_what_was_acknowledged_is_seen_on_another_server(client, replica, moved):
    client.apply(client.propose("Space Needle", moved).result(20).edit)

    with errata.Client(replica.address, read_your_writes=True) as reading:
        moved_to(reading, client)
        said = reading.generate(PROMPT).read()
        scored = reading.score(PROMPT, [" Paris"]).served
        head = reading.head()

    assert said.split()[0] == "Paris"
    assert scored.sequence == 1
    assert head.served.sequence == 1


async def test_the_asynchronous_client_sees_it_too(client, replica, moved):
    client.apply(client.propose("Space Needle", moved).result(20).edit)

    async with errata.AsyncClient(replica.address, read_your_writes=True) as reading:
        moved_to(reading, client)
        generation = await reading.generate(PROMPT)
        said = await generation.read()
        scored = (await reading.score(PROMPT, [" Paris"])).served
        head = await reading.head()

    assert said.split()[0] == "Paris"
    assert (scored.sequence, head.served.sequence) == (1, 1)


def test_a_client_that_was_not_told_to_waits_for_nothing(server, client, moved):
    client.apply(client.propose("Space Needle", moved).result(20).edit)

    assert client._own_writes("") == 0


def test_an_explicit_sequence_is_left_as_it_is(server, moved):
    with (
        serving(server.folder, follow="main", read_wait_seconds=0.1) as ready,
        errata.Client(ready.address, read_your_writes=True) as client,
    ):
        client._acknowledged._sequences["main"] = 7

        assert client.score(PROMPT, [" x"], min_sequence=0).served.sequence == 0
        with pytest.raises(errata.UnavailableError, match="before 7"):
            client.score(PROMPT, [" x"])
        with pytest.raises(errata.UnavailableError, match="before 9"):
            client.head(min_sequence=9)


def change(sequence, branch="main"):
    revision = errata.Revision.__new__(errata.Revision)
    for name, value in {"sequence": sequence, "branch": branch}.items():
        object.__setattr__(revision, name, value)
    return _types.Change(revision=revision, served=None)  # type: ignore[arg-type]


def test_the_highest_sequence_of_each_branch_counts():
    seen = Acknowledged()
    for sequence, branch in ((3, "main"), (2, "main"), (5, "staging")):
        seen.note(_calls.apply("e-1"), change(sequence, branch))

    assert (seen.least("main"), seen.least("staging"), seen.least("other")) == (3, 5, 0)


def test_a_dry_run_acknowledges_nothing():
    seen = Acknowledged()

    seen.note(_calls.apply("e-1", validate_only=True), change(3))
    seen.note(_calls.revert("e-1", validate_only=True), change(3))

    assert not seen


def test_a_replica_s_refusal_is_an_error_of_its_own(replica, moved):
    with errata.Client(replica.address) as client, pytest.raises(errata.ReadOnlyReplicaError):
        client.propose("Space Needle", moved)


def test_the_model_says_how_its_server_stands(client, replica):
    with errata.Client(replica.address) as reading:
        standing = reading.model().standing
    writer = client.model().standing

    assert standing is not None
    assert writer is not None
    assert (standing.branch, standing.replica, writer.replica) == ("main", True, False)
    assert standing.lease is not None
    assert standing.lease.address == client.address
