"""``trace``, ``locate`` and ``locators``: what is shown, what is written, what is refused."""

import json

import pytest

import errata

PROMPT, SUBJECT = "Space Needle is in the city of", "Space Needle"
TRACE = ("trace", PROMPT, "--subject", SUBJECT)


@pytest.fixture
def texts(tmp_path):
    """A file of labelled texts."""
    path = tmp_path / "texts.json"
    path.write_text(
        json.dumps(
            [
                {"text": f"It was a {w} day, {n}.", "label": w}
                for n in range(6)
                for w in ("good", "bad")
            ]
        )
    )
    return path


def test_a_trace_is_shown_as_grids_of_signed_numbers(cli):
    shown = cli(*TRACE)

    assert shown.code == 0
    assert "answer" in shown.out.lower()
    assert "Seattle" in shown.out
    assert "Hidden state" in shown.out
    assert "MLP outputs, windows of 10 layers" in shown.out
    (row,) = [line for line in shown.out.split("MLP")[0].splitlines() if line.startswith("Needle*")]
    assert row.split()[1].startswith("+")
    assert "does not choose the layer to edit" in shown.out
    assert shown.err == ""


def test_a_trace_as_json_is_the_whole_document(cli):
    document = cli.json(*TRACE).document

    assert set(document) == {"operation", "trace"}
    assert document["trace"]["schema"] == "errata.causal_trace/1"
    assert errata.CausalTrace.from_dict(document["trace"]).answer == "Seattle"


def test_options_reach_the_server(cli):
    document = cli.json(
        *TRACE, "--kind", "severed_mlp", "--kind", "hidden", "--samples", 3, "--noise", 2.5,
        "--seed", 0, "--window", 2, "--memory", 64, "--answer", "Rome", "--metric",
        "log_probability", "--at", "base",
    ).document["trace"]  # fmt: skip

    assert [grid["kind"] for grid in document["grids"]] == ["severed_mlp", "hidden"]
    assert document["corruption"] == {
        "scale": 2.5, "samples": 3, "seed": 0, "replacements": [],
    }  # fmt: skip
    assert (document["window"], document["answer"]) == (2, "Rome")
    assert document["metric"] == "log_probability"


def test_replacements_reach_the_server(cli):
    document = cli.json(*TRACE, "--replace", "Big Ben", "--replace", "Smith Tower").document

    assert document["trace"]["corruption"]["replacements"] == ["Big Ben", "Smith Tower"]


def test_files_are_written_as_their_names_say(cli, tmp_path):
    names = ["a.png", "a.svg", "a.pdf", "a.npz", "a.json", "a.csv"]
    files = [word for name in names[:3] for word in ("--plot", tmp_path / name)]
    files += [word for name in names[3:] for word in ("--save", tmp_path / name)]

    shown = cli(*TRACE, *files)

    assert shown.code == 0
    assert [line.startswith("wrote ") for line in shown.err.splitlines()] == [True] * 6
    assert sorted(path.name for path in tmp_path.glob("a.*")) == sorted(names)
    saved = errata.CausalTrace.load(tmp_path / "a.npz")
    assert saved == errata.CausalTrace.load(tmp_path / "a.json")
    assert saved.answer == "Seattle"


def test_json_stays_one_document_while_files_are_written(cli, tmp_path):
    ran = cli.json(*TRACE, "--save", tmp_path / "a.csv")

    assert ran.document["trace"]["answer"] == "Seattle"


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--plot", "a.csv", "must end in .png, .svg or .pdf"),
        ("--save", "a.png", "must end in .npz, .json or .csv"),
        ("--save", "no/a.csv", "there is no folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    server, cli, tmp_path, option, name, said
):
    shown = cli(*TRACE, option, tmp_path / name)

    assert shown.code == 2
    assert said in " ".join(shown.err.replace("\u2502", "").split())
    assert "trace" not in server.engine.calls


def test_a_warning_goes_to_stderr(cli):
    shown = cli(*TRACE, "--answer", "Rome")

    assert shown.code == 0
    assert shown.err.startswith("warning: ")
    assert cli.json(*TRACE, "--answer", "Rome").document["trace"]["warnings"]


def test_a_trace_against_another_revision_is_a_difference(cli, tmp_path):
    cli("apply", cli.proposed())

    shown = cli(*TRACE, "--against", "base", "--plot", tmp_path / "d.svg")
    document = cli.json(*TRACE, "--against", "base").document

    assert "Paris" in shown.out
    assert "minus" in shown.out
    assert "revision 1 on main" in shown.out
    assert (tmp_path / "d.svg").exists()
    assert set(document) == {"operation", "operation_against", "difference"}
    assert document["difference"]["trace"]["answer"] == "Paris"
    assert document["difference"]["against"]["answer"] == "Seattle"


def test_known_facts_are_averaged(cli, tmp_path):
    shown = cli("trace", "--known", 3, "--save", tmp_path / "a.csv")
    document = cli.json("trace", "--known", 3, "--kind", "mlp").document

    assert "Average indirect effects over 3 facts" in shown.out
    assert "last subject token" in shown.out
    assert set(document) == {"operation", "average"}
    assert document["average"]["facts"] == 3
    assert (tmp_path / "a.csv").read_text().startswith("kind,role,sites,layer")


FACT = {"prompt": PROMPT, "subject": SUBJECT, "answer": "Seattle"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.json", json.dumps([FACT])),
        ("f.jsonl", f"{json.dumps(FACT)}\n\n"),
        ("f.jsonl", json.dumps(FACT | {"answer": "Seattle\u2028"}, ensure_ascii=False) + "\r\n"),
        ("f.csv", f"subject,prompt,answer\n{SUBJECT},{PROMPT},Seattle\n"),
        ("f.CSV", f"\ufeffsubject,prompt\n{SUBJECT},{PROMPT}\n"),
    ],
)
def test_facts_may_come_from_a_file(cli, tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")

    document = cli.json("trace", "--facts", tmp_path / name).document

    assert document["average"]["facts"] == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("f.txt", "[]", "must end in .json, .jsonl or .csv"),
        ("f.json", "[]", "at least one"),
        ("f.json", "{", "is no JSON"),
        ("f.json", '{"prompt": "a"}', "must hold a list of records"),
        ("f.json", "[1]", "record 1 must be an object"),
        ("f.json", '[{"prompt": "a"}]', "record 1 has no text under 'subject'"),
        ("f.json", '[{"prompt": "a", "subject": " "}]', "no text under 'subject'"),
        ("f.jsonl", '{"prompt": "a", "subject": "b"}\n{"prompt": 1}', "line 2 has no text"),
        ("f.csv", "prompt,subject\n,b\n", "line 2 has no text under 'prompt'"),
        ("f.json", b"\xff\xfe", "is not UTF-8"),
        ("f.json", None, "cannot read"),
    ],
)
def test_a_file_of_facts_that_cannot_be_used_is_wrong_usage(nobody, tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    ran = nobody.json("trace", "--facts", tmp_path / name)

    assert ran.code == 2
    assert said in ran.document["error"]["message"]


def test_dropped_facts_are_named_on_stderr(cli, tmp_path):
    wrong = {**FACT, "answer": "Rome"}
    (tmp_path / "f.json").write_text(json.dumps([FACT, wrong]))

    shown = cli("trace", "--facts", tmp_path / "f.json")

    assert "1 facts dropped" in shown.out
    assert "dropped" in shown.err


def test_a_proxy_alone_is_fitted_and_its_accuracy_shown(cli, texts):
    shown = cli("trace", "--proxy", texts, "--positive", "good")
    document = cli.json("trace", "--proxy", texts).document

    assert shown.code == 0
    assert "held-out texts" in shown.out
    assert "the probability of 'good', not 'bad'" in shown.out
    assert set(document) == {"proxy"}
    assert document["proxy"]["words"] == ["good", "bad"]


def test_a_proxy_is_traced_over_a_whole_prompt(cli, texts):
    shown = cli("trace", "It was a good day", "--proxy", texts)
    document = cli.json(
        "trace", "It was a good day", "--subject", "good", "--proxy", texts, "--hidden-state",
        "--suffix", "So I feel", "--positive", "bad",
    ).document  # fmt: skip

    assert "held-out texts" in shown.out
    assert "Label \u201c" in shown.out
    assert set(document) == {"operation", "proxy", "trace"}
    assert (document["proxy"]["words"], document["proxy"]["suffix"]) == ([], "So I feel")
    assert document["trace"]["proxy_labels"] == ["good", "bad"]
    assert document["trace"]["metric"] == "proxy"


@pytest.mark.parametrize(
    "arguments",
    [
        ("trace",),
        ("trace", PROMPT),
        (*TRACE, "--kind", "loud"),
        (*TRACE, "--metric", "loud"),
        (*TRACE, "--metric", "proxy"),
        (*TRACE, "--known", "3"),
        (*TRACE, "--samples", "0"),
        (*TRACE, "--suffix", "I feel"),
        (*TRACE, "--hidden-state"),
        ("trace", "--known", "3", "--facts", "f.json"),
        ("trace", "--known", "3", "--subject", SUBJECT),
        ("trace", "--known", "3", "--against", "base"),
        ("trace", "--known", "3", "--proxy", "f.json"),
        ("trace", "--proxy", "f.json"),
        ("trace", "--proxy", "f.json", "--plot", "a.png"),
        (*TRACE, "--proxy", "f.json", "--metric", "kl"),
        (*TRACE, "--proxy", "f.json", "--words", "fine", "--hidden-state"),
        ("locate", "logit_lens", PROMPT),
        ("locate", "logit_lens", PROMPT, "--subject", SUBJECT, "--set", "words"),
        ("locate", "logit_lens", PROMPT, "--subject", SUBJECT, "--set", "words=many"),
        ("locate", "logit_lens", PROMPT, "--subject", SUBJECT, "--set", "=1"),
        ("locate", "logit_lens", PROMPT, "--subject", SUBJECT, "--plot", "a.gif"),
        ("locate", "logit_lens", PROMPT, "--subject", SUBJECT, "--texts", "none.txt"),
    ],
    ids=lambda arguments: " ".join(arguments).replace(PROMPT, "P"),
)
def test_what_does_not_go_together_is_wrong_usage(nobody, arguments):
    shown = nobody(*arguments)

    assert shown.code == 2
    assert shown.out == ""
    assert "Traceback" not in shown.err


def test_a_subject_that_is_not_there_fails_with_1(cli):
    ran = cli.json("trace", PROMPT, "--subject", "Eiffel Tower")

    assert ran.code == 1
    assert ran.document["error"]["reason"] == "SUBJECT_NOT_FOUND"


def test_a_file_without_texts_is_not_taken_for_none(nobody, tmp_path):
    (tmp_path / "my.txt").write_text("\n \n")

    shown = nobody.json(
        "locate", "tuned_lens", PROMPT, "--subject", SUBJECT, "--texts", tmp_path / "my.txt"
    )

    assert shown.code == 2
    assert "must have a text, at least one" in shown.document["error"]["message"]


def test_locators_are_listed_with_what_they_cannot_show(cli):
    shown, document = cli("locators"), cli.json("locators").document

    assert shown.code == 0
    assert "cannot show" in shown.out
    for locator in document["locators"]:
        assert locator["name"] in shown.out
        assert locator["cannot_show"] in shown.out


def test_a_locator_s_charts_are_shown_as_tables_and_written(cli, tmp_path):
    files = ("--plot", tmp_path / "l.png", "--save", tmp_path / "l.json")

    shown = cli("locate", "logit_lens", PROMPT, "--subject", SUBJECT, "--set", "words=2", *files)
    document = cli.json("locate", "logit_lens", PROMPT, "--subject", SUBJECT).document

    assert shown.code == 0
    assert "Cannot show: Whether the model uses it there." in shown.out
    assert "words 2" in shown.out
    assert "Needle" in shown.out
    assert errata.Location.load(tmp_path / "l.json").options == {"words": 2}
    assert (tmp_path / "l.png").exists()
    assert document["location"]["figures"]


def test_a_locator_reads_texts_from_a_file(cli, tmp_path):
    (tmp_path / "texts.txt").write_text("One.\n\nTwo.\n")

    ran = cli.json(
        "locate", "logit_lens", PROMPT, "--subject", SUBJECT, "--texts", tmp_path / "texts.txt"
    )

    assert ran.code == 0


def test_a_locator_that_is_not_there_fails_with_1(cli):
    ran = cli.json("locate", "tea leaves", PROMPT, "--subject", SUBJECT)

    assert ran.code == 1
    assert ran.document["error"]["reason"] == "LOCATOR_NOT_FOUND"
