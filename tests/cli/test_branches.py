"""``branch list|create|protect|unprotect``, ``promote``, and ``--branch`` of other verbs."""

import pytest


def test_a_branch_is_made_tried_and_promoted(cli):
    edit = cli.proposed()

    made = cli("branch", "create", "canary", "--reason", "to try")
    applied = cli("apply", edit, "--branch", "canary")
    tried = cli("promote", "canary", "--dry-run")
    promoted = cli("promote", "canary", "--to", "main", "--reason", "it held")

    assert "Branch canary starts from revision" in made.out
    assert "on canary: apply" in applied.out
    assert "Nothing was committed" in tried.out
    assert f"which applies {edit}; 1 active" in promoted.out
    assert cli.json("log").document["revisions"][0]["kind"] == "promote"
    assert [r["kind"] for r in cli.json("log", "--branch", "canary").document["revisions"]] == [
        "apply",
        "branch",
    ]
    assert cli("audit").code == 0


def test_branches_are_asked_and_compared_side_by_side(cli):
    edit = cli.proposed()
    cli("branch", "create", "canary", "--from", "base")
    cli("apply", edit, "--branch", "canary")
    prompt = "Space Needle is in the city of"

    there, here = (
        cli.json("generate", prompt, *at).document["text"].split()[0]
        for at in (("--at", "canary"), ())
    )
    assert (there, here) == ("Paris", "Seattle")
    assert [e["id"] for e in cli.json("diff", "main", "canary").document["diff"]["added"]] == [edit]
    listed = cli.json("list", "--branch", "canary", "--state", "applied").document["edits"]
    assert [e["id"] for e in listed] == [edit]
    shown = [
        cli.json("show", edit, *on).document["edit"]["state"] for on in ((), ("--branch", "canary"))
    ]
    assert shown == ["verified", "applied"]
    reverted = cli("revert", "--to", "canary@0", "--branch", "canary")
    assert "on canary: revert" in reverted.out


def test_protection_asks_for_an_approval_by_another(cli):
    edit = cli.proposed()

    protected = cli("branch", "protect", "main", "--reason", "production")
    refused = cli.json("apply", edit)
    cli("approve", edit, "--actor", "ben")
    applied = cli("apply", edit)
    unprotected = cli("branch", "unprotect", "main", "--reason", "an emergency")

    assert "Branch main is protected as of revision 1." in protected.out
    assert refused.code == 3
    assert refused.document["error"]["reason"] == "APPROVAL_REQUIRED"
    assert applied.code == 0
    assert "no longer protected" in unprotected.out
    assert ["protected", "yes"] in [line.split() for line in cli("show", "1").out.splitlines()]


def test_branches_are_listed_alone_and_with_the_status(cli):
    cli("branch", "create", "canary")
    cli("branch", "protect", "main", "--reason", "production")

    listed = cli.json("branch", "list").document["branches"]
    status = cli.json("status").document["branches"]

    assert [(b["id"], b["protected"]) for b in listed] == [("canary", False), ("main", True)]
    assert status == listed
    assert "canary" in cli("status").out
    assert "canary" in cli("branch", "list").out


@pytest.mark.parametrize("verb", ["protect", "unprotect"])
def test_protection_without_a_reason_is_wrong_usage(cli, verb):
    refused = cli("branch", verb, "main")

    assert refused.code == 2
    assert "--reason" in refused.err


def test_trying_commits_nothing(cli):
    assert "would start from" in cli("branch", "create", "canary", "--dry-run").out
    tried = cli("branch", "protect", "main", "--reason", "production", "--dry-run")

    assert "would be protected" in tried.out
    listed = cli.json("branch", "list").document["branches"]
    assert [(b["id"], b["protected"]) for b in listed] == [("main", False)]


def test_what_cannot_be_done_says_what_to_do(cli):
    cli("branch", "create", "canary")

    taken = cli("branch", "create", "canary")
    nothing = cli("promote", "canary")

    assert (taken.code, nothing.code) == (1, 1)
    assert "use another name" in taken.err
    assert "nothing to promote" in nothing.err
