"""Resource names."""

import pytest

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import MAIN, BranchName, Digest, EditId, ModelId, RevisionId
from errata_server.rpc.convert import names

MODEL = ModelId("gpt2-xl")


def test_what_was_formatted_parses_to_the_same_ids():
    assert names.model_id(names.model_name(MODEL), "f") == MODEL
    assert names.edit_id(names.edit_name(MODEL, EditId("e-1")), "f") == (MODEL, "e-1")
    assert names.report_id("models/gpt2-xl/reports/ab", "f") == (MODEL, "ab")
    proxy = names.proxy_name(MODEL, Digest("cd" * 32))
    assert names.proxy_digest(proxy, "f") == (MODEL, "cd" * 32)
    name = names.revision_name(MODEL, RevisionId("ab" * 32))
    assert names.revision_reference(name, "f") == (MODEL, "ab" * 32)
    assert names.operation_id("operations/op-1", "f") == "op-1"


def test_the_first_revision_s_parent_has_no_name():
    assert names.revision_name(MODEL, RevisionId("")) == ""


def test_no_branch_means_main():
    assert names.branch_name("", "branch") == MAIN
    assert names.branch_name("next", "branch") == BranchName("next")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "models",
        "models/",
        "models//",
        "models/a/",
        "models/../edits/e",
        "models/a b/edits/e",
        "models/a/edits/",
        "models/a/edits/e/more",
        "models/a/reports/e",
        "/models/a/edits/e",
        "Models/a/edits/e",
        "models/a/edits/e\n",
        "models/a/edits/" + "x" * 129,
        "models/a/edits/\u0435",
    ],
)
def test_a_malformed_name_says_which_form_it_must_have(name):
    with pytest.raises(InvalidInputError, match="models/MODEL/edits/ID") as refused:
        names.edit_id(name, "names[3]")

    assert refused.value.metadata["field"] == "names[3]"
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("name", ["a/b", "main@3", "-x", "a b"])
def test_a_branch_has_no_other_characters(name):
    with pytest.raises(InvalidInputError):
        names.branch_name(name, "branch")
