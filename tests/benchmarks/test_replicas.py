"""The suite `replicas` counts answers that come too early, and replicas that disagree."""

import random

import errata
from benchmarks.reliability.replicas import Replica, ReplicaTally, Scoreboard, converge, write
from tests.support.loopback import serving


def served(revision="r5", sequence=5, weights="w5"):
    return errata.Served(
        revision=revision,
        sequence=sequence,
        branch="main",
        active_set_digest="a",
        weights_digest=weights,
    )


def test_an_answer_that_is_new_enough_counts_as_nothing():
    board = Scoreboard()

    board.read(served(), wanted=5)
    board.read(served("r6", 6, "w6"), wanted=5)

    assert board.tally == ReplicaTally(reads=2)


def test_an_answer_from_an_older_revision_is_stale():
    board = Scoreboard()

    board.read(served(), wanted=6)

    assert board.tally.stale_reads == 1


def test_two_weights_at_one_revision_differ():
    board = Scoreboard()

    board.read(served(), wanted=0)
    board.read(served(weights="others"), wanted=0)

    assert board.tally.digests_differ == 1


def test_a_server_that_serves_something_else_than_the_head_has_not_converged(tmp_path):
    board = Scoreboard()
    with serving(tmp_path) as server, errata.Client(server.address) as client:
        replica = Replica("")
        replica.address = server.address
        genesis = client.revision("0")
        fact = errata.Fact(template="{} is in the city of", target="Rome")
        edits = [client.propose("Space Needle", fact).result(20).edit.id]
        write(client, edits, 3, random.Random(1), board)

        converge([replica], client.head().revision, board)
        assert (board.tally.committed, board.tally.not_converged) == (3, 0)
        converge([replica], genesis, board)

    assert board.tally.not_converged == 1
