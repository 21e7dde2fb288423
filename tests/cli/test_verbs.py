"""Every verb, as a person and as a machine see it."""

import pytest

SUBJECT, PROMPT = "Space Needle", "Space Needle is in the city of"
TEMPLATE = "{} is in the city of"


def test_status_shows_model_head_and_profile(cli):
    shown = cli("status")
    document = cli.json("status").document

    assert shown.code == 0
    assert "models/scripted" in shown.out
    assert "revision 0 on main" in shown.out
    assert set(document) == {"model", "head", "served", "health", "branches"}
    assert document["model"]["id"] == "scripted"
    assert document["head"]["sequence"] == document["served"]["sequence"] == 0


def test_propose_shows_the_checks_and_the_next_command(cli):
    shown = cli("propose", "--subject", SUBJECT, "--prompt", TEMPLATE, "--target", "Paris")

    assert shown.code == 0
    assert "efficacy" in shown.out
    assert "passed" in shown.out
    assert "Next: errata apply e-" in shown.out


def test_propose_as_json_is_one_document(cli):
    document = cli.json(
        "propose", "--subject", SUBJECT, "--prompt", PROMPT, "--target", "Paris",
        "--reason", "it was moved", "--ticket", "T-1", "--actor", "ana",
    ).document  # fmt: skip

    assert set(document) == {"operation", "edit", "report"}
    assert document["edit"]["facts"] == [{"template": TEMPLATE, "target": "Paris"}]
    assert document["edit"]["proposer"] == "ana"
    assert (document["edit"]["reason"], document["edit"]["ticket"]) == ("it was moved", "T-1")
    assert document["report"]["passed"] is True


def test_propose_takes_several_facts_paraphrases_and_neighbours(cli):
    document = cli.json(
        "propose", "--subject", SUBJECT,
        "--prompt", TEMPLATE, "--target", "Paris",
        "--prompt", "{} was made by", "--target", "Paris",
        "--paraphrase", "{} stands in", "--paraphrase", "You can visit {} in=Paris",
        "--neighbour", "Louvre is in the city of=Paris",
    ).document  # fmt: skip

    edit = document["edit"]
    assert len(edit["facts"]) == 2
    assert edit["paraphrases"] == [
        {"prompt": "Space Needle stands in", "expected": "Paris"},
        {"prompt": "You can visit Space Needle in", "expected": "Paris"},
    ]
    assert edit["neighbours"] == [{"prompt": "Louvre is in the city of", "expected": "Paris"}]


def test_a_dry_run_of_propose_stores_nothing(cli):
    shown = cli(
        "propose", "--subject", SUBJECT, "--prompt", TEMPLATE, "--target", "Paris", "--dry-run"
    )

    assert shown.code == 0
    assert "nothing was stored" in shown.out
    assert cli.json("list").document == {"edits": []}


def test_verify_checks_again(cli):
    edit = cli.proposed()

    assert "The report passed" in cli("verify", edit).out
    assert cli.json("verify", edit).document["edit"]["id"] == edit


def test_approve_records_who_and_why(cli):
    edit = cli.proposed()

    shown = cli("approve", edit, "--comment", "looks right", "--actor", "bob")
    document = cli.json("show", edit).document

    assert f"errata apply {edit}" in shown.out
    assert document["edit"]["state"] == "approved"
    assert document["edit"]["approvals"][0]["actor"] == "bob"
    assert document["edit"]["approvals"][0]["comment"] == "looks right"


def test_apply_makes_edits_live_in_one_revision(cli):
    first, second = cli.proposed(), cli.proposed("Big Ben")

    shown = cli("apply", first, second, "--reason", "why")

    assert shown.code == 0
    assert "Revision 1" in shown.out
    assert "2 active" in shown.out
    assert cli("generate", PROMPT).out.split()[0] == "Paris"


def test_apply_as_json_has_the_revision_and_what_is_served(cli):
    document = cli.json("apply", cli.proposed(), "--actor", "ana").document

    assert set(document) == {"revision", "served", "dry_run", "live_verification"}
    assert document["revision"]["id"] == document["served"]["revision"]
    assert document["revision"]["actor"] == "ana"
    assert document["dry_run"] is False


def test_a_dry_run_of_apply_commits_nothing(cli):
    shown = cli("apply", cli.proposed(), "--dry-run")

    assert "Nothing was committed" in shown.out
    assert cli.json("status").document["head"]["sequence"] == 0


def test_a_superseded_edit_is_named(cli):
    old = cli.proposed()
    cli("apply", old)

    shown = cli("apply", cli.proposed(target="Rome"))

    assert f"It hides {old}" in shown.out


def test_revert_takes_edits_back(cli):
    edit = cli.proposed()
    cli("apply", edit)

    shown = cli("revert", edit)

    assert shown.code == 0
    assert "0 active" in shown.out
    assert cli("generate", PROMPT).out.split()[0] == "Seattle"


def test_revert_returns_to_a_revision(cli):
    cli("apply", cli.proposed())
    cli("apply", cli.proposed("Big Ben"))

    document = cli.json("revert", "--to", "0").document

    assert document["revision"]["kind"] == "revert"
    assert document["revision"]["active_count"] == 0


def test_the_same_request_id_applies_once(cli):
    edit = cli.proposed()

    first = cli.json("apply", edit, "--request-id", "r-1").document
    second = cli.json("apply", edit, "--request-id", "r-1").document

    assert first == second


def test_log_is_newest_first(cli):
    edit = cli.proposed()
    cli("apply", edit, "--reason", "the reason why")
    cli("revert", edit)

    shown, document = cli("log"), cli.json("log").document

    assert [r["sequence"] for r in document["revisions"]] == [2, 1, 0]
    assert "the reason why" in shown.out
    assert shown.out.index("revert") < shown.out.index("genesis")
    assert len(cli.json("log", "--limit", 1).document["revisions"]) == 1


def test_list_can_be_narrowed_by_state(cli):
    applied, waiting = cli.proposed(), cli.proposed("Big Ben")
    cli("apply", applied)

    assert waiting in cli("list").out
    found = cli.json("list", "--state", "applied").document["edits"]
    assert [edit["id"] for edit in found] == [applied]


def test_a_list_of_a_state_there_is_not_is_wrong_usage(nobody):
    offered = nobody("list", "--help", env={"COLUMNS": "200"})

    for state in ("unspecified", "nonsense"):
        refused = nobody.json("list", "--state", state)
        assert refused.code == 2
        assert "is none of verified, rejected" in refused.document["error"]["message"]
    assert "verified|rejected|approved|applied|superseded|reverted" in offered.out
    assert "unspecified" not in offered.out


def test_show_knows_edits_revisions_and_reports(cli):
    edit = cli.proposed()
    revision = cli.json("apply", edit).document["revision"]
    report = cli.json("show", edit).document["report"]

    assert SUBJECT in cli("show", edit).out
    assert "Space Needle is in the city of" in cli("show", edit).out, "the answers are shown"
    for name in (revision["id"], revision["id"][:8], "1", "main", revision["name"]):
        assert cli.json("show", name).document["revision"]["id"] == revision["id"], name
    for name in (report["id"], report["name"]):
        assert cli.json("show", name).document == {"report": report}, name
    assert "policy" in cli("show", report["id"]).out
    assert revision["weights_digest"] in cli("show", "1").out


def test_diff_names_edits_with_a_sign(cli):
    edit = cli.proposed()
    cli("apply", edit)

    shown = cli("diff", "0", "1")

    assert "1 added, 0 removed" in shown.out
    assert ["+", edit] in [line.split()[:2] for line in shown.out.splitlines()]
    assert cli.json("diff", "1", "0").document["diff"]["removed"][0]["id"] == edit


def test_watch_prints_a_revision_a_line(cli):
    edit = cli.proposed()
    cli("apply", edit)

    shown = cli("watch", "--from", 0, "--count", 2)
    lines = cli.json("watch", "--from", 0, "--count", 2).out.splitlines()

    assert len(shown.out.splitlines()) == len(lines) == 2
    assert edit in shown.out.splitlines()[1]
    assert all(line.startswith('{"revision": {') for line in lines)


def test_the_time_of_a_call_is_not_that_of_a_watch(nobody):
    shown = nobody("watch", "--help", env={"COLUMNS": "200"})

    assert "operations and watches go on" in shown.out


def test_generate_writes_the_continuation_alone(cli):
    shown = cli("generate", PROMPT, "--max-tokens", 2)

    assert shown.out == " Seattle and\n"
    assert "revision 0" in shown.err
    assert cli.json("generate", PROMPT).document["finish_reason"] == "stop"


def test_generate_asks_any_revision(cli):
    cli("apply", cli.proposed())

    document = cli.json("generate", PROMPT, "--at", "base").document

    assert document["text"].split()[0] == "Seattle"
    assert document["served"]["sequence"] == 0


def test_score_compares_continuations(cli):
    arguments = ("score", PROMPT, "--continuation", "Seattle", "-c", "Paris")

    shown, document = cli(*arguments), cli.json(*arguments).document

    assert shown.out.index("Seattle") < shown.out.index("Paris")
    assert [score["is_greedy"] for score in document["scores"]] == [True, False]
    assert document["logits_digest"] in shown.out


def test_audit_of_a_good_ledger_is_clean(cli):
    cli("apply", cli.proposed())

    shown = cli("audit")

    assert shown.code == 0
    assert "clean" in shown.out
    assert cli.json("audit").document["audit"]["clean"] is True


def test_calibrate_shows_the_profile(cli):
    assert "guard width" in cli("calibrate", "--seed", 4).out
    assert cli.json("calibrate", "--seed", 5).document["profile"]["seed"] == 5


def test_moments_reads_texts_a_line_each(cli, tmp_path):
    texts = tmp_path / "my_texts.txt"
    texts.write_text("one two\n\nthree\n", encoding="utf-8")

    assert "3 tokens" in cli("moments", "--texts", texts).out
    assert cli.json("moments", "--texts", texts).document["tokens"] == 3


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xff\n"], ids=repr)
def test_moments_of_a_file_without_texts_are_refused(nobody, tmp_path, content):
    (tmp_path / "my_texts.txt").write_bytes(content)

    shown = nobody("moments", "--texts", tmp_path / "my_texts.txt")

    assert shown.code == 2
    assert "my_texts.txt" in shown.err


@pytest.mark.parametrize(
    "verb",
    [
        "apply", "approve", "audit", "calibrate", "demo", "diff", "generate", "list", "log",
        "moments", "propose", "revert", "score", "show", "status", "verify", "watch",
    ],
)  # fmt: skip
def test_every_verb_explains_itself_and_takes_an_output(nobody, verb):
    shown = nobody(verb, "--help", env={"COLUMNS": "200"})

    assert shown.code == 0
    assert "--output" in shown.out
    assert ("--address" in shown.out) == (verb != "demo")


def test_the_version_is_told(nobody):
    assert nobody("--version").out.startswith("errata ")
