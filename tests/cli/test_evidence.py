"""``checkpoint``, ``prove``, ``keygen``, ``audit --against``, and signed proposals."""

import shutil

import pytest

import errata
from tests.cli.conftest import CommandLine
from tests.support.loopback import serving
from tests.support.tampering import tampering

KEY = errata.SigningKey.generate("errata")


@pytest.fixture
def signing(tmp_path, migrated_sqlite):
    """A command line whose server signs, and the folder it works in."""
    KEY.write(tmp_path / "server.key")
    shutil.copy(migrated_sqlite, tmp_path / "ledger.db")
    with serving(tmp_path, signing_key=tmp_path / "server.key") as running:
        yield CommandLine(running.address), tmp_path


def restarted(folder):
    return serving(folder, signing_key=folder / "server.key")


def test_a_checkpoint_is_shown_and_kept(signing):
    cli, folder = signing
    kept = folder / "kept"

    shown = cli("checkpoint", "--save", kept, "--key", KEY.public)
    document = cli.json("checkpoint").document["checkpoint"]

    assert kept.read_text() == document["note"]
    assert shown.out.splitlines()[1] == "3"
    assert f"wrote {kept}" in shown.err


def test_an_unsigned_checkpoint_says_so(cli):
    assert "it is not signed" in cli("checkpoint").err


def test_an_audit_goes_on_from_what_was_kept(signing):
    cli, folder = signing
    kept = folder / "kept"
    cli("checkpoint", "--save", kept)
    cli.proposed()

    ran = cli("audit", "--against", kept, "--key", KEY.public)
    document = cli.json("audit", "--against", kept).document

    assert ran.code == 0
    assert "entry 3 to entry 5" in ran.out
    assert (document["log"]["kept_size"], document["log"]["findings"]) == (3, [])
    assert errata.LedgerCheckpoint.parse(kept.read_text()).size == 3


def test_an_audit_says_where_nothing_was_compared(cli):
    assert "No kept checkpoint was compared" in cli("audit").out


def test_an_audit_keeps_a_checkpoint_and_brings_it_forward_and_never_back(signing):
    cli, folder = signing
    kept = folder / "kept"
    env = {"ERRATA_CHECKPOINT_FILE": str(kept)}

    first = cli("audit", env=env)
    cli.proposed()
    second = cli("audit", env=env)
    size = errata.LedgerCheckpoint.parse(kept.read_text()).size
    third = cli("audit", env=env)
    back = cli("checkpoint", "--size", 2, "--save", kept)

    assert [ran.code for ran in (first, second, third)] == [0, 0, 0]
    assert "this one is the first" in first.out
    assert size == 5
    assert "kept a checkpoint of 5" in second.err
    assert "kept" not in third.err
    assert back.code == 1
    assert "has a later one, of 5" in back.out
    assert errata.LedgerCheckpoint.parse(kept.read_text()).size == 5


def test_an_audit_names_a_cut_log_and_keeps_what_it_had(signing):
    cli, folder = signing
    kept = folder / "kept"
    cli.proposed()
    cli("checkpoint", "--save", kept)
    note = kept.read_text()
    with tampering(f"sqlite:///{folder / 'ledger.db'}", rearm=True) as tamper:
        tamper("DELETE FROM reports")
        tamper("DELETE FROM edits")
        tamper("DELETE FROM log_entries WHERE position > 2")

    running = cli.json("audit", "--against", kept)  # the server remembers what it has signed
    with restarted(folder) as again:
        ran = CommandLine(again.address)("audit", env={"ERRATA_CHECKPOINT_FILE": str(kept)})
        save = CommandLine(again.address)("checkpoint", "--save", kept)

    assert running.code == 1
    assert {finding["row"] for finding in running.document["audit"]["findings"]} == {
        "log_entries[#3..#4]"
    }
    assert running.document["log"]["findings"]
    assert (ran.code, save.code) == (1, 1)
    assert "older database was restored" in ran.out.replace("\n", " ").replace("  ", " ")
    assert kept.read_text() == note


@pytest.mark.parametrize(
    ("option", "value"), [("--against", "nowhere"), ("--key", "nobody")], ids=["file", "key"]
)
def test_what_cannot_be_compared_is_no_success(signing, option, value):
    cli, folder = signing
    (folder / "kept").write_text("no checkpoint")

    assert cli("audit", option, value).code in {1, 2}
    assert cli("audit", "--against", folder / "kept").code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("audit", "--against", "nowhere"), "cannot read nowhere: No such file or directory"),
        (("prove", "0", "--against", "nowhere"), "cannot read nowhere: No such file or directory"),
        (("checkpoint", "--save", "folder"), "cannot read folder: Is a directory"),
        (("audit", "--against", "latin"), "latin is no file of UTF-8 text"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_named_once_and_in_words(
    signing, monkeypatch, arguments, said
):
    cli, folder = signing
    monkeypatch.chdir(folder)
    (folder / "folder").mkdir()
    (folder / "latin").write_bytes(b"\xff")

    shown = cli(*arguments)

    assert (shown.code, shown.err) == (1, f"error: {said}\n")


def test_an_edit_and_a_revision_are_proven(signing):
    cli, folder = signing
    edit = cli.proposed()
    cli("checkpoint", "--save", folder / "kept")
    cli("apply", edit)

    assert "hashes lead to the root" in cli("prove", edit, "--against", folder / "kept").out
    assert cli.json("prove", "1").document["proof"]["entry"]["kind"] == "revision"
    assert cli("prove", "1", "--against", folder / "kept").code == 1
    assert cli("prove", "e-0").code == 1


def test_keys_are_made_and_sign_proposals(tmp_path, migrated_sqlite):
    made = CommandLine("127.0.0.1:1")("keygen", tmp_path / "ana.key", "--name", "ana")
    (tmp_path / "trusted").write_text(made.out)
    shutil.copy(migrated_sqlite, tmp_path / "ledger.db")
    asked = ("propose", "--subject", "Prado", "--prompt", "{} is in the city of")
    with serving(tmp_path, trusted_keys=tmp_path / "trusted", require_signatures=True) as running:
        cli = CommandLine(running.address)
        refused = cli.json(*asked, "--target", "Rome")
        signed = cli.json(*asked, "--target", "Rome", "--sign-with", tmp_path / "ana.key")
        shown = cli("show", signed.document["edit"]["id"])

    assert refused.document["error"]["reason"] == "SIGNATURE_REQUIRED"
    assert signed.document["edit"]["signed_by"].startswith("ana+")
    assert "signed by" in shown.out
    assert CommandLine("127.0.0.1:1")("keygen", tmp_path / "ana.key").code == 1
