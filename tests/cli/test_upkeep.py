"""``suite``, ``suites``, ``verify --live``, ``crawl``, and health in ``status``."""

import json

import pytest

from errata_server.domain.checks import CheckKind

RECORDS = [
    {"prompt": "Space Needle stands in", "expected": "Seattle"},
    {"prompt": "Louvre stands in", "expected": "Paris"},
]


@pytest.fixture
def suite_file(tmp_path):
    path = tmp_path / "capitals.json"
    path.write_text(json.dumps(RECORDS))
    return path


def propose(cli, *options, subject="Space Needle"):
    prompt = "{} is in the city of"
    return cli("propose", "--subject", subject, "--prompt", prompt, "--target", "Oslo", *options)


def test_a_stored_suite_rejects_a_proposal_until_it_is_retired(cli, suite_file):
    stored = cli("suite", "add", "capitals", suite_file, "--reason", "ours")
    rejected = propose(cli)
    retired = cli("suite", "retire", "capitals")

    assert "capitals@1 has 2 prompts" in stored.out
    assert rejected.code == 3
    assert "suite capitals@1" in rejected.out
    assert "retired as of capitals@2" in retired.out
    assert propose(cli).code == 0


def test_suites_are_listed_and_shown(cli, suite_file):
    cli("suite", "add", "capitals", suite_file)
    cli("suite", "retire", "capitals")

    listed = cli.json("suites").document["suites"]
    versions = cli.json("suites", "capitals").document["suites"]
    shown = cli.json("suite", "show", "capitals@1").document["suite"]

    assert [(s["id"], s["prompt_count"]) for s in listed] == [("capitals@2", 0)]
    assert [s["version"] for s in versions] == [2, 1]
    assert shown["prompts"] == RECORDS
    assert "retired" in cli("suites").out
    assert "Louvre stands in" in cli("suite", "show", "capitals@1").out


def test_versions_of_a_suite_there_is_not_are_an_error(cli):
    listed, shown = cli.json("suites", "nope"), cli.json("suite", "show", "nope")

    assert listed.code == shown.code == 1
    assert listed.document == shown.document
    assert listed.document["error"]["reason"] == "SUITE_NOT_FOUND"


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv"])
def test_a_file_of_prompts_judges_one_proposal(cli, tmp_path, suffix):
    path = tmp_path / f"capitals.{suffix}"
    path.write_text(
        {
            "json": json.dumps(RECORDS),
            "jsonl": "\n".join(map(json.dumps, RECORDS)),
            "csv": "prompt,expected\nSpace Needle stands in,Seattle\nLouvre stands in,Paris\n",
        }[suffix]
    )

    rejected = propose(cli, "--suite", path, "--output", "json")

    assert rejected.code == 3
    (check,) = [c for c in rejected.document["report"]["checks"] if c["kind"] == "suite"]
    assert [answer["held_after"] for answer in check["answers"]] == [False, True]
    assert propose(cli).code == 0


def test_a_file_that_holds_something_else_is_wrong_usage(cli, tmp_path):
    path = tmp_path / "capitals.json"
    path.write_text('[{"prompt": "Louvre stands in"}]')

    refused = cli("suite", "add", "capitals", path)

    assert refused.code == 2
    assert "'expected'" in refused.err.replace("\n", " ")


def test_an_edit_is_verified_with_a_file_of_prompts(cli, suite_file):
    edit = cli.proposed()

    assert cli("verify", edit).code == 0
    assert cli("verify", edit, "--suite", suite_file).code == 3


def test_live_edits_that_hold_are_told_of(cli):
    applied = cli("apply", cli.proposed(), cli.proposed("Louvre", "Oslo"))

    verified = cli("verify", "--live", "--sample", "5")
    document = cli.json("verify", "--live").document

    assert "is asking the live edits again" in applied.err
    assert verified.code == 0
    assert "All 2 edits that were asked still hold (0 in conflict, 2 drawn" in verified.out
    assert document["verification"]["passed"] is True


def test_live_edits_that_no_longer_hold_are_named_and_fail(cli, server):
    server.engine.faults.add(CheckKind.LIVE_EDITS)
    edit = cli.proposed()
    cli("apply", edit, "--override", "to see it break")

    verified = cli("verify", "--live")

    assert verified.code == 3
    assert (
        f"1 of 1 edits no longer hold (0 in conflict, 1 drawn, of 1 live): {edit}" in verified.out
    )
    assert "spoilt" in verified.out


@pytest.mark.parametrize(
    "arguments", [(), ("e-1", "--live"), ("e-1", "--sample", "3"), ("--live", "--suite", "x.json")]
)
def test_verify_is_of_an_edit_or_of_what_is_live(cli, arguments):
    assert cli("verify", *arguments).code == 2


def test_status_shows_health_and_warns(cli, server):
    well = cli("status")
    server.engine.faults.add(CheckKind.PERPLEXITY)
    cli("apply", cli.proposed(), "--override", "to see it drift")
    warned = cli("status")

    assert "well" in well.out
    assert "RETRAIN SOON" in warned.out
    assert "layer 1" in warned.out
    assert "warning: perplexity of fixed texts is 2.5 %" in warned.err
    assert cli.json("status").document["health"]["verdict"] == "warned"


def test_a_crawl_shows_what_changed_and_what_says_so(cli):
    edit = cli.proposed()
    cli("apply", edit)

    shown = cli("crawl", "Space Needle")
    everything = cli("crawl", "Space Needle", "--all")
    document = cli.json("crawl", "Space Needle", "--at", "1", "--against", "0").document

    assert "Seattle (3/3)" in shown.out
    assert edit in shown.out
    assert "Nothing else changed." in shown.out
    assert "Pentagram" not in shown.out
    assert "Pentagram" in everything.out
    assert [r["change"] for r in document["crawl"]["relations"]] == ["other", "same"]
