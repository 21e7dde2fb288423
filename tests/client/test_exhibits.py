"""Files that results are written to: checked before, written whole."""

import pytest

import errata
from errata import _documents
from errata._exhibits import PICTURES, check_destination
from tests.support.exhibits import causal_trace, location

TRACE = causal_trace(kinds=("hidden",))


@pytest.mark.parametrize("name", ["trace", "trace.txt", "trace.npy", ".png"])
def test_a_suffix_that_says_nothing_is_refused_with_those_that_do(name, tmp_path):
    with pytest.raises(errata.InvalidInputError, match=r"must end in \.npz, \.json"):
        TRACE.save(tmp_path / name)

    assert list(tmp_path.iterdir()) == []


def test_a_picture_may_be_all_that_is_allowed(tmp_path):
    assert check_destination(tmp_path / "a.PNG", PICTURES).name == "a.PNG"
    with pytest.raises(errata.InvalidInputError, match=r"\.png, \.svg or \.pdf"):
        check_destination(tmp_path / "a.csv", PICTURES)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(errata.InvalidInputError, match="there is no folder"):
        check_destination(tmp_path / "no" / "a.csv")


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.csv").mkdir()

    with pytest.raises(errata.InvalidInputError, match="it is a folder"):
        check_destination(tmp_path / "a.csv")


def test_a_file_is_replaced_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")

    TRACE.save(path)

    assert errata.CausalTrace.load(path) == TRACE
    assert [found.name for found in tmp_path.iterdir()] == ["a.json"]


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real.csv").write_text("before")
    link = tmp_path / "link.csv"
    link.symlink_to("real.csv")

    TRACE.save(link)

    assert link.is_symlink()
    assert (tmp_path / "real.csv").read_text().startswith("kind,token_index")


@pytest.mark.parametrize("name", ["nul\0.json", f"{'x' * 300}.json"])
def test_a_name_that_cannot_be_is_an_error_and_leaves_nothing(name, tmp_path):
    with pytest.raises(errata.InvalidInputError, match="cannot write"):
        TRACE.save(tmp_path / name)

    assert list(tmp_path.iterdir()) == []


def test_numbers_are_stored_as_they_are(tmp_path):
    TRACE.save(tmp_path / "a.json")

    read = errata.CausalTrace.load(tmp_path / "a.json")
    assert read.effects("hidden") == TRACE.effects("hidden")


DOCUMENT = TRACE.to_dict()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": "6"}, "document.layers must be a whole number, not str '6'"),
        ({"clean": None}, "document.clean must be"),
        ({"clean": True}, "document.clean must be"),
        ({"tokens": {}}, "document.tokens must be a list"),
        ({"tokens": [1]}, r"document.tokens\[0\] must be an object"),
        ({"metric": "loudness"}, "document.metric must be one of"),
        ({"provenance": {}}, "document.provenance has no 'model_digest'"),
        ({"grids": [{"kind": "hidden"}]}, r"document.grids\[0\] has no 'scores'"),
    ],
)
def test_a_malformed_document_is_an_error_that_names_the_place(change, said):
    with pytest.raises(errata.InvalidInputError, match=said):
        errata.CausalTrace.from_dict(DOCUMENT | change)


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "[" * 100_000])
def test_what_is_no_json_object_is_an_error(text):
    with pytest.raises(errata.InvalidInputError, match="JSON"):
        errata.CausalTrace.from_json(text)


def test_fields_of_a_newer_client_are_passed_over_and_older_ones_have_defaults():
    document = {**DOCUMENT, "colour": "blue"}
    del document["digest"]

    assert errata.CausalTrace.from_dict(document).digest == ""


def test_options_and_figures_keep_their_names():
    document = _documents.parse(location().to_json())

    assert (document["figures"], document["options"]) == ({"attributes_rate": 0.314}, {"window": 9})
