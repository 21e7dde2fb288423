"""The demo: every claim it makes is checked, and one that fails makes it fail."""

import json

import pytest

import errata
from errata import testing
from errata.cli import demo
from errata.cli._screen import Output, Screen, jsonable
from errata.cli._session import Session
from errata_server.files import read_bundled_profile


@pytest.fixture
def tell(server):
    """Tells the story on the scripted server; gives the document."""

    def told():
        running = testing.RunningServer(
            address=server.address,
            metrics_url="",
            ledger=server.ledger,
            model="scripted",
            process_id=0,
            log=server.folder / "none",
        )
        with errata.Client(server.address, actor="demo") as client:
            return demo._tell(Session(client, Screen(Output.TABLE)), running)

    return told


def test_every_claim_is_kept_by_a_model_that_can_be_edited(tell, capsys):
    document = tell()

    assert document["claims"]
    assert all(document["claims"].values()), document["claims"]
    assert document["bit_identical"] is True
    assert document["after"].paraphrases
    assert "errata demo: the tower is moved to Rome" in capsys.readouterr().out


def test_the_document_is_json_with_its_keys(tell):
    document = json.loads(json.dumps(jsonable(tell())))

    assert {
        "server", "edit", "report", "before", "applied", "after", "reverted",
        "bit_identical", "log", "audit", "metrics", "claims",
    } == set(document)  # fmt: skip
    assert document["before"]["fact"]["answer"].startswith("Paris")
    assert document["after"]["fact"]["answer"].startswith("Rome")
    assert document["reverted"]["heard"]["fact"]["answer"].startswith("Paris")


def test_a_failed_check_is_a_claim_not_kept_and_nothing_goes_live(server, tell):
    server.engine.faults.update({"neighbourhood"})

    document = tell()

    assert document["claims"]["the checks pass"] is False
    assert document["applied"] is None
    assert len(document["log"]) == 1


def test_a_model_that_cannot_be_served_is_a_sentence(nobody, tmp_path):
    shown = nobody("demo", "--model", tmp_path / "no-such-model")

    assert shown.code == 1
    assert shown.err.startswith("error: the server ended")
    assert "Traceback" not in shown.err


@pytest.mark.slow
@pytest.mark.skipif(read_bundled_profile() is None, reason="no bundled model with a profile")
def test_the_demo_keeps_every_claim_on_the_bundled_model(nobody):
    ran = nobody.json("demo")

    assert ran.code == 0, ran.out + ran.err
    assert all(ran.document["claims"].values())
    assert ran.document["bit_identical"] is True
    assert ran.document["audit"]["clean"] is True
    assert ran.document["metrics"]
