"""Branches through both clients."""

import pytest

import errata

PROMPT = "Space Needle is in the city of"


def test_a_branch_is_made_tried_and_promoted(client, moved):
    edit = client.propose("Space Needle", moved).result().edit
    branch = client.create_branch("canary", reason="to try")
    client.apply(edit, branch="canary")

    there, here = (
        client.generate(PROMPT, revision=name).read().split()[0] for name in ("canary", "main")
    )
    diff = client.diff("main", "canary")
    change = client.promote("canary", reason="it held")

    assert (branch.id, branch.head.kind, branch.head.reason) == ("canary", "branch", "to try")
    assert (there, here) == ("Paris", "Seattle")
    assert [one.id for one in diff.added] == [edit.id]
    assert (change.revision.kind, change.revision.edits) == ("promote", (edit.id,))
    assert change.revision.source == client.head("canary").revision.id
    assert client.generate(PROMPT).read().split()[0] == "Paris"
    assert [b.id for b in client.branches()] == ["canary", "main"]


def test_states_are_those_on_the_branch_that_is_named(client, moved):
    edit = client.propose("Space Needle", moved).result().edit
    client.create_branch("canary", start="base")
    client.apply(edit, branch="canary")

    assert client.edit(edit).state is errata.EditState.VERIFIED
    assert client.edit(edit, branch="canary").state is errata.EditState.APPLIED
    applied = client.edits(state=errata.EditState.APPLIED, branch="canary")
    assert [one.id for one in applied] == [edit.id]


def test_a_protected_branch_takes_what_another_approved_of(client, server, moved):
    edit = client.propose("Space Needle", moved).result().edit
    branch = client.protect("main", "it is in production")

    with pytest.raises(errata.ApprovalRequiredError, match="errata approve"):
        client.apply(edit)
    client.approve(edit, actor="ben")
    change = client.apply(edit)

    assert branch.protected
    assert change.revision.protected
    assert not client.unprotect("main", "an emergency").protected


def test_what_cannot_be_done_is_an_error_of_its_own(client, moved):
    edit = client.propose("Space Needle", moved).result().edit
    other = client.propose("Louvre", errata.Fact(template="{} is in", target="Rome")).result().edit
    client.create_branch("canary")

    with pytest.raises(errata.BranchExistsError):
        client.create_branch("canary")
    with pytest.raises(errata.PreconditionError, match="nothing to promote"):
        client.promote("canary")
    client.apply(edit, branch="canary")
    client.apply(other)
    with pytest.raises(errata.DivergedError, match="--from main"):
        client.promote("canary")
    with pytest.raises(errata.StaleRevisionError):
        client.promote("canary", expected_revision="0")
    with pytest.raises(errata.InvalidInputError, match="names no branch"):
        client.protect("a/b", "why")


async def test_the_asynchronous_client_does_the_same(server, moved):
    async with errata.AsyncClient(server.address, actor="ana") as client:
        edit = (await (await client.propose("Space Needle", moved)).result()).edit
        await client.create_branch("canary")
        await client.apply(edit, branch="canary")

        assert (await client.edit(edit, branch="canary")).state is errata.EditState.APPLIED
        assert (await client.promote("canary")).revision.sequence == 1
        assert (await client.protect("main", "production")).protected
        assert not (await client.unprotect("main", "emergency")).protected
