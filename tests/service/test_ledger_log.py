"""The log of a running server: nothing is signed that was not read back, nothing is unlearnt."""

import base64
import dataclasses

import pytest

from errata_server.domain.errors import (
    EditNotFoundError,
    ErrataError,
    InvalidInputError,
    LedgerCorruptError,
    RevisionNotFoundError,
)
from errata_server.domain.ids import RequestId
from errata_server.domain.log import LogKind
from errata_server.domain.signatures import ProposerSignature, Statement
from errata_server.signing import SigningKey, TrustedKeys
from tests.support import MODEL, edit_request
from tests.support.services import call, open_services
from tests.support.tampering import tampering

ANA = SigningKey.generate("ana")


def sign(services, request, request_id, *, actor="ana", key=ANA):
    """A proposer's signature over ``request``."""
    statement = Statement(
        model=MODEL,
        base=services.log.base,
        proposer=actor,
        request=request,
        request_id=request_id,
    )
    note = key.note(statement.signed_bytes.decode())
    value = note.rpartition(" ")[2].strip()
    raw = base64.b64decode(value)[4:]
    encoded = base64.b64encode(raw).decode()
    return ProposerSignature(key=key.public.id, value=encoded, request_id=request_id)


def test_a_checkpoint_grows_with_the_ledger_and_old_sizes_stay(services):
    before = services.log.checkpoint()
    services.apply(services.proposed())
    after = services.log.checkpoint()

    assert after.checkpoint.size == before.checkpoint.size + 3
    assert services.log.checkpoint(before.checkpoint.size) == before
    assert before.note == before.checkpoint.text
    with pytest.raises(InvalidInputError, match="never had"):
        services.log.checkpoint(after.checkpoint.size + 1)
    with pytest.raises(InvalidInputError, match="exchange them"):
        services.log.consistency(after.checkpoint.size, before.checkpoint.size)


def test_what_is_not_in_the_log_is_not_found(services):
    with pytest.raises(EditNotFoundError):
        services.log.inclusion(LogKind.EDIT, "e-1")
    with pytest.raises(RevisionNotFoundError):
        services.log.inclusion(LogKind.REVISION, "f" * 64)


def test_a_row_that_is_not_what_was_committed_is_never_signed(services, url):
    services.log.checkpoint()
    services.proposed()
    with tampering(url) as tamper:
        tamper("UPDATE reports SET body = zeroblob(3)")

    for _ in range(2):
        with pytest.raises(LedgerCorruptError, match="is another one"):
            services.log.checkpoint()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM log_entries WHERE position > 3",
        "UPDATE log_entries SET digest = (SELECT digest FROM log_entries WHERE position = 0) "
        "WHERE position = 4",
    ],
    ids=["cut", "written anew"],
)
def test_a_log_that_no_longer_goes_on_is_refused_and_named(services, url, statement):
    services.proposed()
    services.log.checkpoint()
    with tampering(url) as tamper:
        tamper(statement)

    with pytest.raises(LedgerCorruptError):
        services.log.checkpoint()
    rows = {finding.row for finding in services.history.audit().ledger.findings}
    assert rows & {"log_entries[#4]", "log_entries[#4..#4]"}


def test_entries_come_in_pages(services):
    services.proposed()

    first = services.log.entries(page_size=3)
    rest = services.log.entries(page_size=3, page_token=first.next_token)

    positions = [entry.position for entry in (*first.items, *rest.items)]
    assert positions == list(range(len(positions)))
    assert rest.next_token == ""
    assert services.log.entries(page_token="9" * 30).items == ()
    with pytest.raises(InvalidInputError, match="gave out"):
        services.log.entries(page_token="x")


@pytest.fixture
def trusting(url):
    keys = TrustedKeys(keys={ANA.public.id: ANA.public})
    with open_services(url, keys=keys) as opened:
        yield opened


def propose(services, request_id="r-1", **changed):
    request = edit_request()
    signature = sign(services, request, request_id)
    operation = services.proposals.propose(
        request, call(request_id), signature=dataclasses.replace(signature, **changed)
    )
    return services.operations.wait(operation.id, 20)


def test_a_stored_signature_is_checked_by_every_audit(trusting):
    propose(trusting)
    assert trusting.history.audit().clean

    retired = TrustedKeys(keys=trusting.proposals.keys.keys, retired=frozenset({ANA.public.id}))
    assert dataclasses.replace(trusting.history, keys=retired).audit().clean
    (finding,) = dataclasses.replace(trusting.history, keys=TrustedKeys()).audit().ledger.findings
    assert "not among the server's --trusted-keys" in finding.problem


def test_an_edit_that_was_changed_under_its_signature_is_found(trusting, url):
    propose(trusting)
    (edit,) = trusting.ledger.edits(trusting.ledger.edit_ids(MODEL, limit=1))
    forged = dataclasses.replace(edit, request=edit_request(target="Rome"))
    with tampering(url, rearm=True) as tamper:
        tamper(f"UPDATE edits SET body = X'{forged.body.hex()}', digest = '{forged.digest}'")
        tamper(f"UPDATE log_entries SET digest = '{forged.digest}' WHERE kind = 'edit'")

    problems = {finding.problem for finding in trusting.history.audit().ledger.findings}

    assert any("is not that of the key ana" in problem for problem in problems)


def test_a_signature_used_twice_is_found(trusting):
    propose(trusting)
    (edit,) = trusting.ledger.edits(trusting.ledger.edit_ids(MODEL, limit=1))
    report = trusting.ledger.latest_report(edit.id)
    again = dataclasses.replace(edit, id="e-again")
    trusting.ledger.record_edit(again, dataclasses.replace(report, edit=again.id))

    (finding,) = trusting.history.audit().ledger.findings

    assert (finding.row, finding.problem) == (
        "edits[e-again]",
        "its signature was used for an earlier edit",
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"value": "AAAA"}, "INVALID_SIGNATURE"),
        ({"value": "not base64"}, "INVALID_SIGNATURE"),
        ({"value": ""}, "INVALID_SIGNATURE"),
        ({"key": "ana+00000000"}, "UNTRUSTED_KEY"),
        ({"key": ""}, "UNTRUSTED_KEY"),
    ],
)
def test_a_signature_that_is_none_is_refused_before_anything_is_computed(trusting, changed, reason):
    with pytest.raises(ErrataError, match="key") as refused:
        propose(trusting, **changed)

    assert refused.value.reason == reason
    assert trusting.ledger.edit_ids(MODEL, limit=1) == []


@pytest.mark.parametrize(
    "asked",
    [
        lambda services, request: (edit_request(target="Rome"), call("r-1")),
        lambda services, request: (request, call("r-2")),
        lambda services, request: (request, call("r-1", actor="ben")),
        lambda services, request: (
            dataclasses.replace(request, reason="another"),
            call("r-1"),
        ),
    ],
    ids=["target", "request id", "actor", "reason"],
)
def test_a_signature_is_good_for_exactly_what_was_signed(trusting, asked):
    request = edit_request()
    signature = sign(trusting, request, "r-1")
    other, circumstances = asked(trusting, request)

    with pytest.raises(InvalidInputError, match="sign exactly what is proposed"):
        trusting.proposals.propose(other, circumstances, signature=signature)


def test_an_edit_without_a_signature_keeps_the_bytes_it_had(services):
    edit = services.proposed()

    assert b"signature" not in edit.body
    signed = dataclasses.replace(
        edit, signature=ProposerSignature(key="k", value="v", request_id=RequestId("r"))
    )
    assert type(edit).from_body(signed.body) == signed
    assert type(edit).from_body(edit.body) == edit
