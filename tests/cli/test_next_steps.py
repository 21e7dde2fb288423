"""What a command says to do next: true of the edit as it stands."""

from tests.cli.conftest import CommandLine


def facts_file(tmp_path):
    path = tmp_path / "facts.csv"
    path.write_text(
        "subject,prompt,target\n"
        "Louvre,{} is in the city of,Oslo\n"
        "Prado,{} is in the city of,Oslo\n"
        "Big Ben,{} is in the city of,Oslo\n"
    )
    return path


def suite_file(tmp_path, subject, expected):
    """A prompt that an edit of ``subject`` turns wrong."""
    path = tmp_path / "suite.csv"
    path.write_text(f"prompt,expected\n{subject} stands in,{expected}\n")
    return path


def test_of_an_edit_that_is_applied_a_verification_leaves_nothing_to_do(cli):
    edit = cli.proposed()
    waiting = cli("verify", edit)
    cli("apply", edit)
    applied = cli("verify", edit)

    assert f"Next: errata apply {edit}" in waiting.out
    assert "It is applied already." in applied.out
    assert "errata apply" not in applied.out


def test_of_an_edit_that_is_hidden_the_one_that_hides_it_is_named(cli):
    old, new = cli.proposed(), cli.proposed(target="Rome")
    cli("apply", old)
    cli("apply", new)

    shown = cli("verify", old)

    assert f"It is applied already, and {new} hides it; `errata revert {new}`" in shown.out
    assert "errata apply" not in shown.out


def test_an_applied_edit_that_fails_now_is_to_be_reverted(cli, tmp_path):
    edit = cli.proposed()
    cli("apply", edit)

    shown = cli("verify", edit, "--suite", suite_file(tmp_path, "Space Needle", "Seattle"))

    assert shown.code == 3
    assert "It is applied and no longer passes (suite)" in shown.out
    assert f"`errata revert {edit}` takes it back" in shown.out
    assert "--override" not in shown.out


def test_an_edit_that_was_reverted_may_be_applied_again(cli):
    edit = cli.proposed()
    cli("apply", edit)
    cli("revert", edit)

    assert f"Next: errata apply {edit}" in cli("verify", edit).out


def test_of_a_batch_only_what_is_not_applied_is_named(cli, tmp_path):
    propose = ("propose", "--file", facts_file(tmp_path), "--batch", "b-1")
    document = cli.json(*propose).document
    first, *others = (one["edit"]["id"] for one in document["batch"]["edits"])
    cli("apply", first)
    some = cli(*propose)
    cli("apply", *others)
    everything = cli(*propose)

    assert f"Next: errata apply {' '.join(others)}\n" in some.out
    assert "Applied already: 1." in some.out
    assert "Applied already: 3." in everything.out
    assert "Next:" not in everything.out


def test_of_a_batch_what_failed_since_is_not_named(cli, tmp_path):
    propose = ("propose", "--file", facts_file(tmp_path), "--batch", "b-1", "--request-id", "r-1")
    document = cli.json(*propose).document
    first, *others = (one["edit"]["id"] for one in document["batch"]["edits"])
    cli("verify", first, "--suite", suite_file(tmp_path, "Louvre", "Paris"))

    assert f"Next: errata apply {' '.join(others)}\n" in cli(*propose).out


def test_an_approval_of_an_applied_edit_promises_nothing(cli):
    edit = cli.proposed()
    cli("apply", edit)

    shown = cli("approve", edit, "--actor", "ben")

    assert shown.out == f"{edit} is approved. It is applied already.\n"


def test_an_approval_by_the_proposer_alone_does_not_promise_a_protected_branch(cli):
    edit = proposed_by_ana(cli)
    cli("branch", "protect", "main", "--reason", "production")

    own = cli("approve", edit, "--actor", "ana")
    refused = cli.json("apply", edit)
    another = cli("approve", edit, "--actor", "ben")
    again = cli("approve", edit, "--actor", "ana")
    applied = cli("apply", edit)

    assert f"{edit} is approved by its own proposer; a protected branch asks" in own.out
    assert refused.document["error"]["reason"] == "APPROVAL_REQUIRED"
    assert another.out == f"{edit} is approved; `errata apply {edit}` makes it live.\n"
    assert again.out == another.out
    assert applied.code == 0


def test_an_approval_of_an_older_report_by_another_does_not_count(cli):
    edit = proposed_by_ana(cli)
    cli("approve", edit, "--actor", "ben")
    cli("verify", edit)

    assert "by its own proposer" in cli("approve", edit, "--actor", "ana").out


def test_what_failed_is_not_sent_to_a_protected_branch(server, cli):
    cli("branch", "protect", "main", "--reason", "production")
    server.engine.faults.add("efficacy")
    edit = proposed_by_ana(cli)

    proposed = cli("verify", edit)
    approved = cli("approve", edit, "--actor", "ben")
    overridden = cli("apply", edit, "--override", "it must go live")

    assert "on a branch that is not protected: errata apply" in proposed.out
    assert "to a branch that is not protected" in approved.err
    assert overridden.code == 3
    assert "keep it on a branch that is not protected" in overridden.err
    assert "errata approve" not in overridden.err


def proposed_by_ana(cli: CommandLine) -> str:
    prompt = "{} is in the city of"
    words = ("--subject", "Space Needle", "--prompt", prompt, "--target", "Paris")
    return cli.json("propose", *words, "--actor", "ana").document["edit"]["id"]
