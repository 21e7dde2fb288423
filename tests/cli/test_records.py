"""Files of records: nothing in them is dropped, cut or swallowed without a word."""

import pytest
import typer

import errata
from errata.cli import _inputs as inputs

EDITS = "subject,prompt,target\n"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a file and names it as a user would who stands beside it."""
    monkeypatch.chdir(tmp_path)

    def write(content, name="x.csv"):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path.relative_to(tmp_path)

    return write


def refused(read, path):
    with pytest.raises(typer.BadParameter) as caught:
        read(path)
    return caught.value.message


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (inputs.proposals, EDITS + "x,The {} is,a,b,c\n"),
        (inputs.check_prompts, "prompt,expected\nThe capital of Peru is,Lima, Peru\n"),
        (inputs.facts, "prompt,subject\nx is in,x,Rome\n"),
        (inputs.labelled_texts, "text,label\nwell, it was good,good\n"),
    ],
)
def test_a_row_with_more_fields_than_the_header_is_refused(written, read, content):
    assert refused(read, written(content)) == (
        "x.csv, line 2 has more fields than the header; put quotes around a value that holds a "
        "comma"
    )


def test_a_value_in_quotes_may_hold_commas_and_quotes(written):
    (found,) = inputs.proposals(written(EDITS + 'x,"The ""{}"", they say, is",a\n'))

    assert found.facts == (errata.Fact(template='The "{}", they say, is', target="a"),)


def test_a_row_with_fewer_fields_than_the_header_is_refused(written):
    said = refused(inputs.proposals, written(EDITS + "x,The {} is,a\n\ny,The {} is\n"))

    assert said.startswith("x.csv, line 4 has fewer fields than the header;")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("subject,prompt", "x.csv has no column 'target'; its header has 'subject', 'prompt'"),
        (
            "subject;prompt;target",
            "x.csv has no column 'subject'; separate columns with commas, not semicolons",
        ),
        (
            "subject\tprompt\ttarget",
            "x.csv has no column 'subject'; separate columns with commas, not tabs",
        ),
    ],
)
def test_a_column_that_is_missing_is_named(written, header, said):
    assert refused(inputs.proposals, written(f"{header}\nx,The {{}} is\n")) == said


@pytest.mark.parametrize(
    "rest",
    [
        'y,"The {} is,b\nz,The {} is,c\n',
        'y,The {} is,"b\n',
        'y,The {} is,"b',
        'y,"The {} is,b\nz,"The {} is",c\n',
    ],
    ids=range(4),
)
def test_a_quote_left_open_is_refused_where_its_record_begins(written, rest):
    said = refused(inputs.proposals, written(f"{EDITS}x,The {{}} is,a\n{rest}"))

    assert said.startswith("x.csv, line 3 is no CSV (")
    assert "close every quote" in said


def test_a_quote_closed_on_a_later_line_is_refused(written):
    said = refused(inputs.proposals, written(EDITS + 'x,"The {} is,a\ny,The {} is",b\n'))

    assert said.startswith("x.csv, line 2 has a line's end in 'prompt'; close the quote")


def test_a_text_with_a_label_may_have_several_lines(written):
    (found,) = inputs.labelled_texts(written('text,label\n"well\nit was",good\n'))

    assert found.text == "well\nit was"


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (inputs.proposals, EDITS + "x,The {} is,"),
        (inputs.check_prompts, "prompt,expected\nx is in,"),
        (inputs.facts, "prompt,subject\nx is in,"),
    ],
)
def test_a_value_longer_than_csv_takes_is_wrong_usage_and_named(written, read, content):
    said = refused(read, written(content + "x" * 131_073))

    assert said.startswith("x.csv, line 2 is no CSV (field larger than")


def test_a_long_field_is_no_fault_of_errata(nobody, written):
    path = written("prompt,expected\n" + "x" * 131_073 + ",y\n")

    shown = nobody("suite", "add", "capitals", path)

    assert shown.code == 2
    assert "fault of errata" not in shown.err
    assert "x.csv, line 2" in shown.err


def test_a_bad_line_of_json_lines_is_named_by_its_place_in_the_file(written):
    good = '{"prompt": "x is in", "expected": "Rome"}'

    said = refused(inputs.check_prompts, written(f'{good}\n\n{{"prompt"}}\n', "x.jsonl"))
    other = refused(inputs.check_prompts, written(f"{good}\n\n[1]\n", "x.jsonl"))

    assert said == "x.jsonl, line 3 is no JSON: Expecting ':' delimiter at column 10"
    assert other == "x.jsonl, line 3 must be an object with named fields"


def test_what_is_no_json_is_named_by_line_and_column(written):
    said = refused(inputs.check_prompts, written('[\n{"prompt"}]\n', "x.json"))

    assert said == "x.json is no JSON: Expecting ':' delimiter at line 2, column 10"


ASKED = '"subject": "x", "prompt": "The {} is", "target": "a"'


UNKNOWN = "has 'alias', which is none of the fields subject, prompt, target, aliases"
TWICE = "has 'target' twice; keep one of them"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "subject,prompt,target,alias\nx,The {} is,a,y\n", f"x.csv {UNKNOWN}"),
        ("x.json", f'[{{{ASKED}}}, {{{ASKED}, "alias": []}}]', f"x.json, record 2 {UNKNOWN}"),
        ("x.jsonl", f'{{{ASKED}}}\n\n{{{ASKED}, "alias": []}}', f"x.jsonl, line 3 {UNKNOWN}"),
        ("x.csv", "subject,prompt,target,target\nx,The {} is,a,b\n", f"x.csv {TWICE}"),
        ("x.json", f'[{{{ASKED}, "target": "b"}}]', f"x.json, record 1 {TWICE}"),
        ("x.jsonl", f'{{{ASKED}, "target": "b"}}', f"x.jsonl, line 1 {TWICE}"),
    ],
)
def test_a_field_that_nobody_knows_or_that_stands_twice_is_refused(written, name, content, said):
    assert refused(inputs.proposals, written(content, name)) == said
