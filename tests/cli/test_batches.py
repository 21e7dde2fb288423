"""`errata propose --file`: many facts from a file."""

import json

import pytest

from errata_server.domain.batches import MAX_ITEMS

CSV = "subject,prompt,target\nLouvre,{} is in the city of,Oslo\nPrado,{} is in the city of,Oslo\n"


@pytest.fixture
def facts(tmp_path):
    def write(content, name="facts.csv"):
        path = tmp_path / name
        path.write_text(content)
        return path

    return write


def test_a_file_is_proposed_and_the_next_command_named(cli, facts):
    shown = cli("propose", "--file", facts(CSV))

    assert shown.code == 0
    assert "2 of 2 edits passed" in shown.out
    assert "Next: errata apply e-" in shown.out
    assert "--batch b-" in shown.err


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_json_and_json_lines_are_read_too(cli, facts, kind):
    rows = [
        {"subject": "Louvre", "prompt": "{} is in the city of", "target": "Oslo"},
        {"subject": "Louvre", "prompt": "{} stands in", "target": "Oslo"},
    ]
    lines = json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows))

    document = cli.json("propose", "--file", facts(lines, f"facts.{kind}")).document

    (edit,) = document["batch"]["edits"]
    assert edit["places"] == [0, 1]
    assert len(edit["edit"]["facts"]) == 2


def test_a_record_that_fails_is_named_and_the_rest_kept(cli, facts):
    shown = cli("propose", "--file", facts(CSV + "Space Needle,{} is in the city of,Seattle\n"))

    assert shown.code == 3
    assert "ALREADY_TRUE" in shown.out
    assert "2 of 2 edits passed" in shown.out
    assert "1 records came to nothing" in shown.out


def test_a_batch_of_the_same_name_is_not_computed_again(cli, facts):
    path = facts(CSV)
    first = cli.json("propose", "--file", path, "--batch", "b-1").document
    again = cli.json("propose", "--file", path, "--batch", "b-1").document

    def ids(document):
        return [one["edit"]["id"] for one in document["batch"]["edits"]]

    assert ids(first) == ids(again)
    assert first["operation"] != again["operation"]


def test_together_each_edit_is_checked_beside_the_others(cli, facts):
    document = cli.json("propose", "--file", facts(CSV), "--together").document

    assert document["batch"]["edits"][0]["conflicts"].startswith("Compared with 1 live edits")


@pytest.mark.parametrize("given", [["--subject", "Louvre"], ["--target", "Oslo"]], ids=str)
def test_a_file_and_an_edit_of_its_own_do_not_go_together(cli, facts, given):
    shown = cli("propose", "--file", facts(CSV), *given)

    assert shown.code == 2
    assert "--file" in shown.err


def test_a_dry_run_of_a_file_is_refused_for_what_it_is(cli, facts):
    shown = cli.json("propose", "--file", facts(CSV), "--dry-run")

    assert shown.code == 2
    assert "--dry-run is for a single edit" in shown.document["error"]["message"]
    assert cli.json("list").document == {"edits": []}


def test_a_batch_of_more_records_than_the_help_says_is_refused(cli, facts):
    row = "Louvre,{} is in the city of,Oslo\n"
    shown = cli.json("propose", "--file", facts("subject,prompt,target\n" + row * 2001))

    assert f"{MAX_ITEMS:,} records" in cli("propose", "--help", env={"COLUMNS": "200"}).out
    assert shown.code == 1
    assert "1 to 2000 edits, not 2001" in shown.document["error"]["message"]


def test_neither_an_edit_nor_a_file_is_wrong_usage(cli):
    assert cli("propose", "--subject", "Louvre").code == 2


def test_aliases_of_a_file_go_with_their_edit(cli, facts):
    row = {"subject": "Louvre", "prompt": "{} is in the city of", "target": "Oslo"}
    by_name = cli.json(
        "propose", "--file", facts(json.dumps([row | {"aliases": ["Museum"]}]), "a.json")
    )
    csv = "subject,prompt,target,aliases\nPrado,{} is in the city of,Oslo,Museo | El Prado\n"
    by_bar = cli.json("propose", "--file", facts(csv))

    found = [ran.document["batch"]["edits"][0]["edit"]["aliases"] for ran in (by_name, by_bar)]
    assert found == [["Museum"], ["Museo", "El Prado"]]


def test_aliases_that_are_no_list_are_wrong_usage(cli, facts):
    row = {"subject": "Louvre", "prompt": "{} is in the city of", "target": "Oslo", "aliases": 7}

    assert cli("propose", "--file", facts(json.dumps([row]), "a.json")).code == 2


def test_an_alias_of_a_single_proposal_is_stored_and_shown(cli):
    arguments = ("--subject", "Louvre", "--prompt", "{} is in the city of", "--target", "Oslo")

    edit = cli.json("propose", *arguments, "--alias", "The Museum").document["edit"]
    refused = cli("propose", *arguments, "--alias", "Louvre")

    assert edit["aliases"] == ["The Museum"]
    assert cli.json("show", edit["id"]).document["edit"]["aliases"] == ["The Museum"]
    assert (refused.code, "another alias" in refused.err) == (1, True)
