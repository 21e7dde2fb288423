"""The operator's files, and the bundled ones."""

import json

import pytest

from errata_server import files
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.policies import Policy


def written(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_without_a_policy_file_the_defaults_hold():
    assert files.read_policy(None) == Policy()


def test_a_policy_file_changes_what_it_names(tmp_path):
    path = written(tmp_path, "policy.json", {"minimum_efficacy": 0.5})

    assert files.read_policy(path) == Policy(minimum_efficacy=0.5)


def test_the_bundled_facts_and_texts_can_be_read():
    assert len(files.read_known_facts(None).facts) > 1_000
    texts = files.read_texts(None)
    assert 0 < len(texts.drift) <= files.DRIFT_TEXTS
    assert len(texts.corpus) > len(texts.drift)


def test_texts_may_be_lines(tmp_path):
    path = written(tmp_path, "texts.txt", "One.\n\nTwo.\n")

    assert files.read_texts(path).corpus == ("One.", "Two.")


@pytest.mark.parametrize(
    ("read", "content", "complaint"),
    [
        (files.read_policy, "{", r"is malformed: it is not JSON \(Expecting property name"),
        (files.read_policy, [], "is malformed: it must hold a JSON object"),
        (files.read_policy, [1], "is malformed: it must hold a JSON object"),
        (files.read_known_facts, "a line", r"is malformed: it is not JSON \(Expecting value"),
        (files.read_texts, {"corpus": ["a"]}, "is malformed: 'perplexity' is missing"),
        (files.read_policy, {"minimum_eficacy": 1}, "unknown policy values minimum_eficacy"),
        (files.read_policy, {"minimum_efficacy": "high"}, "must be a number"),
        (files.read_policy, {"minimum_efficacy": 10**400}, "is malformed"),
        (files.read_known_facts, {"facts": []}, "malformed"),
        (files.read_texts, {"perplexity": []}, "is malformed"),
        (files.read_texts, {"perplexity": [1], "corpus": ["a"]}, "lists of texts"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(tmp_path, read, content, complaint):
    path = written(tmp_path, "file.json", content)

    with pytest.raises(InvalidInputError, match=complaint) as refused:
        read(path)

    assert str(path) in str(refused.value)


def test_an_empty_file_holds_no_text(tmp_path):
    with pytest.raises(InvalidInputError, match="holds no text"):
        files.read_texts(written(tmp_path, "texts.txt", "\n"))


@pytest.mark.parametrize("read", [files.read_policy, files.read_known_facts, files.read_texts])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(InvalidInputError, match=r"cannot read .*missing\.json"):
        read(tmp_path / "missing.json")
