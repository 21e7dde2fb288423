"""What the command line shows of replicas, and of a ledger that is away."""

import pytest

from errata_server.domain.errors import LedgerUnavailableError
from errata_server.ledger.ledger import Ledger
from tests.cli.conftest import CommandLine
from tests.support.loopback import serving


@pytest.fixture
def replica(server):
    with serving(server.folder, follow="main", read_wait_seconds=0.2) as ready:
        yield CommandLine(ready.address)


def test_status_says_what_a_server_is_to_its_ledger(cli, replica, server):
    writer, reader = cli("status").out, replica("status").out

    assert "writes to main" in writer
    assert "replica of main" in reader
    assert f"run on {server.address}" in reader
    document = replica.json("status").document
    assert document["model"]["standing"]["replica"] is True
    assert document["model"]["standing"]["lag"] == 0


def test_status_is_shown_while_the_ledger_is_away(replica, monkeypatch):
    def away(self, model, branch="main"):
        raise LedgerUnavailableError("the ledger's database does not answer")

    monkeypatch.setattr(Ledger, "head", away)
    while replica.json("status").document["model"]["standing"]["reachable"]:
        pass

    shown = replica("status")

    assert shown.code == 0
    assert "AWAY" in shown.out
    assert "revision 0 on main" in shown.out
    assert "does not answer" in shown.err


def test_generate_asks_for_a_sequence(cli, replica):
    cli("apply", cli.proposed())
    prompt = "Space Needle is in the city of"

    refused = replica.json("generate", prompt, "--min-sequence", 9)
    assert refused.code == 1
    assert refused.document["error"]["metadata"]["min_sequence"] == "9"
    served = replica.json("generate", prompt, "--min-sequence", 1).document["served"]
    assert served["sequence"] == 1
    scored = replica.json("score", prompt, "-c", " Paris", "--min-sequence", 1)
    assert scored.document["served"]["sequence"] == 1


def test_a_change_sent_to_a_replica_is_refused_with_where_to_send_it(replica, server):
    ran = replica.json("apply", "e-000000000000")

    assert ran.code == 1
    assert ran.document["error"]["reason"] == "READ_ONLY_REPLICA"
    assert server.address in ran.document["error"]["message"]
