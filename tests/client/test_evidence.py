"""Checkpoints, proofs and signed proposals through both clients."""

import dataclasses
import os
import shutil
import stat

import pytest

import errata
from tests.support.loopback import serving

SERVER = errata.SigningKey.generate("errata")
ANA = errata.SigningKey.generate("ana")
STRANGER = errata.SigningKey.generate("stranger")


@pytest.fixture
def keys(folder):
    """Files of private keys by name, and what the server is started with."""
    for name, key in (("server", SERVER), ("ana", ANA), ("stranger", STRANGER)):
        key.write(folder / f"{name}.key")
    (folder / "trusted").write_text(f"# proposers\n{ANA.public}\n")
    return folder


@pytest.fixture
def signing(keys):
    with (
        serving(keys, signing_key=keys / "server.key", trusted_keys=keys / "trusted") as running,
        errata.Client(running.address, actor="ana") as connected,
    ):
        yield connected


def test_a_checkpoint_is_signed_and_read_back(signing):
    found = signing.checkpoint(keys=[str(SERVER.public)])

    assert found.size == 3
    assert found.model == "scripted"
    assert found.key == SERVER.public.id
    assert errata.LedgerCheckpoint.parse(found.note) == found
    assert signing.checkpoint(size=2).size == 2


def test_a_checkpoint_of_another_key_is_refused(signing):
    with pytest.raises(errata.ProofError, match="signed by another key"):
        signing.checkpoint(keys=[STRANGER.public])


def test_a_server_without_a_key_says_so(client):
    assert client.checkpoint().key == ""
    with pytest.raises(errata.ProofError, match="is not signed"):
        client.checkpoint(keys=[SERVER.public])


def test_a_size_the_log_never_had_is_refused(client):
    with pytest.raises(errata.InvalidInputError, match="never had 9000"):
        client.checkpoint(size=9000)
    with pytest.raises(errata.InvalidInputError):
        client.checkpoint(size=-1)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "errata/m/" + "0" * 64 + "\n1\nAAAA\n",
        "other/m/" + "0" * 64 + "\n1\n" + "A" * 43 + "=\n",
        "errata/m/" + "0" * 64 + "\n01\n" + "A" * 43 + "=\n",
        "errata/m/" + "0" * 64 + "\n1\n" + "A" * 43 + "=\nmore\n",
        "errata/m/" + "0" * 64 + "\n1\n" + "A" * 43 + "=\n\n\u2014 name AAAA\n",
    ],
    ids=["empty", "root", "origin", "size", "more", "signature"],
)
def test_what_is_no_checkpoint_is_refused(note):
    with pytest.raises(errata.InvalidInputError):
        errata.LedgerCheckpoint.parse(note)


def test_every_byte_of_a_signed_checkpoint_counts(signing):
    found = signing.checkpoint()

    for place in range(len(found.note)):
        changed = found.note[:place] + chr(ord(found.note[place]) ^ 1) + found.note[place + 1 :]
        try:
            wrong = errata.LedgerCheckpoint.parse(changed)
        except errata.InvalidInputError:
            continue
        assert wrong.objection([SERVER.public]), changed


def test_edits_reports_and_revisions_are_proven(signing, moved):
    proposal = signing.propose("Space Needle", moved).result()
    kept = signing.checkpoint()
    applied = signing.apply(proposal.edit).revision

    assert signing.prove(proposal.edit, keys=[SERVER.public]).entry.kind == "edit"
    assert signing.prove(proposal.edit.id, against=kept).entry.key == proposal.edit.id
    assert signing.prove(proposal.report).entry.digest == proposal.report.id
    assert signing.prove(applied).entry.digest == applied.id
    assert signing.prove("1").body == applied.body
    with pytest.raises(errata.InvalidInputError, match="no checkpoint of 5 entries can have it"):
        signing.prove(applied, against=kept)
    with pytest.raises(errata.EditNotFoundError):
        signing.prove("e-000000000000")
    with pytest.raises(errata.RevisionNotFoundError):
        signing.prove("f" * 64)
    with pytest.raises(errata.InvalidInputError):
        signing.prove("models/scripted/suites/capitals")


def test_a_proof_of_something_else_is_refused(signing, moved):
    edit, other = (
        signing.propose(subject, moved).result().edit for subject in ("Big Ben", "Space Needle")
    )
    proof, kept = signing.prove(edit), signing.checkpoint()
    wrong = {
        "is not proven to be in the log": proof,
        "not those the entry stands for": dataclasses.replace(proof, body=proof.body + b" "),
        "do not lead": dataclasses.replace(proof, hashes=proof.hashes[::-1]),
    }

    proof.verify(edit.name, against=kept, keys=[SERVER.public])
    for problem, changed in wrong.items():
        with pytest.raises(errata.ProofError, match=problem):
            changed.verify(other.name if changed is proof else edit.name)
    with pytest.raises(errata.ProofError, match="of the model"):
        proof.verify(edit.name.replace("scripted", "another"))
    with pytest.raises(errata.ProofError, match="entry is of a"):
        proof.verify(edit.name.replace("edits", "reports"))
    moved_root = dataclasses.replace(kept, root=bytes(32))
    with pytest.raises(errata.ProofError, match="do not lead"):
        proof.verify(edit.name, against=moved_root)


def test_a_log_that_grew_goes_on_from_what_was_kept(signing, moved):
    kept = signing.checkpoint()
    signing.propose("Space Needle", moved).result()

    compared = signing.compare(kept, keys=[SERVER.public])

    assert compared.clean
    assert (compared.kept.size, compared.present.size) == (3, 5)
    entries = list(signing.log_entries(page_size=2))
    assert [entry.position for entry in entries] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"root": bytes(32)}, "history was written anew"),
        ({"size": 99}, "its tail was cut off"),
        ({"model": "another"}, "of another model"),
        ({"base": "0" * 64}, "loaded from another checkpoint"),
    ],
    ids=["rewritten", "cut", "model", "base"],
)
def test_what_is_wrong_with_the_present_log_is_named(signing, changes, problem):
    kept = dataclasses.replace(signing.checkpoint(), **changes)

    (finding,) = signing.compare(kept).findings

    assert problem in finding.problem


def test_another_key_is_named_with_and_without_keys_to_trust(signing, keys, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    kept = signing.checkpoint()
    assert signing.compare(kept, keys=[SERVER.public]).findings == ()

    with (
        serving(elsewhere, signing_key=keys / "stranger.key") as running,
        errata.Client(running.address) as client,
    ):
        problems = [client.compare(kept).findings[0].problem]
        problems += [one.problem for one in client.compare(kept, keys=[SERVER.public]).findings]

    assert "and the server now signs with stranger" in problems[0]
    assert "the server's checkpoint is signed by another key" in problems[1]


def test_a_signed_proposal_names_its_key_and_survives_the_audit(signing, keys, moved):
    fact = errata.Fact(template="Cafe\u0301 is in the city of", target=" Paris ")

    plain = signing.propose("Space Needle", moved).result().edit
    signed = signing.propose(
        " Caf\u00e9 ", fact, reason=" because ", proposer_key=keys / "ana.key"
    ).result()

    assert (plain.signed_by, signed.edit.signed_by) == ("", ANA.public.id)
    assert signing.edit(signed.edit.id).signed_by == ANA.public.id
    assert signing.audit().findings == ()


def test_the_environment_names_the_keys(keys, moved, monkeypatch):
    (keys / "log.pub").write_text(f"{SERVER.public}\n")
    monkeypatch.setenv("ERRATA_PROPOSER_KEY", str(keys / "ana.key"))
    monkeypatch.setenv("ERRATA_CHECKPOINT_KEYS", str(keys / "log.pub"))
    with (
        serving(
            keys,
            signing_key=keys / "stranger.key",
            trusted_keys=keys / "trusted",
            require_signatures=True,
        ) as running,
        errata.Client(running.address) as client,
    ):
        assert client.propose("Space Needle", moved).result().edit.signed_by == ANA.public.id
        with pytest.raises(errata.ProofError, match="another key"):
            client.checkpoint()


def test_a_signed_batch_is_one_signature_an_edit(signing, keys, moved):
    stands = errata.Fact(template="{} stands in", target="Paris")
    proposals = [
        errata.EditProposal(subject=subject, facts=(fact,))
        for subject, fact in (("Big Ben", moved), ("Prado", moved), ("Big Ben", stands))
    ]

    found = signing.propose_edits(proposals, proposer_key=keys / "ana.key", reason="x").result()

    assert found.failures == ()
    assert [(e.edit.subject, e.edit.signed_by) for e in found.edits] == [
        ("Big Ben", ANA.public.id),
        ("Prado", ANA.public.id),
    ]
    assert signing.audit().findings == ()


def test_proposals_that_may_not_be_taken_are_refused_with_a_reason_of_their_own(keys, moved):
    with (
        serving(keys, trusted_keys=keys / "trusted", require_signatures=True) as running,
        errata.Client(running.address, actor="ana") as client,
    ):
        with pytest.raises(errata.SignatureRequiredError, match="--sign-with"):
            client.propose("Space Needle", moved)
        with pytest.raises(errata.UntrustedKeyError, match="stranger"):
            client.propose("Space Needle", moved, proposer_key=keys / "stranger.key")
        batch = client.propose_edits([errata.EditProposal(subject="Prado", facts=(moved,))])
        assert [failure.reason for failure in batch.result().failures] == ["SIGNATURE_REQUIRED"]
        with pytest.raises(errata.InvalidInputError, match="holds no private key"):
            client.propose("Space Needle", moved, proposer_key=keys / "trusted")
        assert list(client.edits()) == []


def test_private_keys_are_for_their_owner_alone_and_never_written_over(tmp_path):
    path = tmp_path / "ana.key"
    ANA.write(path)

    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert errata.SigningKey.read(path) == ANA
    assert "PRIVATE" not in repr(ANA)
    with pytest.raises(errata.InvalidInputError, match="never written over"):
        STRANGER.write(path)
    with pytest.raises(errata.InvalidInputError, match="spaces and plus signs"):
        errata.SigningKey.generate("a b")
    for wrong in ("", "ana", str(ANA.public)[:-3], str(ANA.public).replace("ana", "ben")):
        with pytest.raises(errata.InvalidInputError):
            errata.PublicKey.parse(wrong)


async def test_the_asynchronous_client_does_the_same(keys, moved):
    with serving(keys, signing_key=keys / "server.key", trusted_keys=keys / "trusted") as running:
        async with errata.AsyncClient(running.address, actor="ana") as client:
            kept = await client.checkpoint(keys=[SERVER.public])
            signed = await client.propose("Space Needle", moved, proposer_key=keys / "ana.key")
            edit = (await signed.result()).edit

            assert edit.signed_by == ANA.public.id
            assert (await client.compare(kept, keys=[SERVER.public])).clean
            assert (await client.prove(edit)).entry.key == edit.id
            assert len([entry async for entry in client.log_entries()]) == 5


def test_an_older_database_is_found_by_a_client_that_kept_a_checkpoint(folder, moved):
    shutil.copy(folder / "ledger.db", folder / "backup.db")
    with serving(folder) as running, errata.Client(running.address) as client:
        client.propose("Space Needle", moved).result()
        kept = client.checkpoint()
    for suffix in ("", "-wal", "-shm"):
        (folder / f"ledger.db{suffix}").unlink(missing_ok=True)
    shutil.copy(folder / "backup.db", folder / "ledger.db")

    with serving(folder) as running, errata.Client(running.address) as client:
        (finding,) = client.compare(kept).findings

    assert "older database was restored" in finding.problem
