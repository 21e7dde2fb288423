"""What a causal trace offers: effects, bounds, tables, files, and the difference of two."""

import csv
import dataclasses
import io
import json
import pickle
import zipfile

import numpy as np
import pytest

import errata
from errata_server.domain import traces as domain
from errata_server.service import results
from tests.support.exhibits import SUBJECT, WORDS, average_trace, causal_trace, location


@pytest.fixture
def trace():
    return causal_trace()


def test_an_effect_is_the_restored_score_less_the_corrupted_one(trace):
    grid = trace.grid("hidden")

    assert trace.effects("hidden")[3][2] == pytest.approx(grid.scores[3][2] - 0.04)
    assert trace.total_effect == pytest.approx(0.58)
    assert trace.kinds == (errata.TraceKind.HIDDEN, errata.TraceKind.MLP, errata.TraceKind.ATTN)


def test_a_kind_that_was_not_traced_is_an_error_that_names_those_that_were(trace):
    with pytest.raises(errata.InvalidInputError, match="only hidden, mlp, attn"):
        trace.effects("severed_mlp")


def test_the_peak_is_the_site_with_the_largest_effect(trace):
    peak = trace.peak("mlp")

    assert (peak.token, peak.layer) == (3, 2)
    assert peak.effect == max(max(row) for row in trace.effects("mlp"))


def test_fractions_are_of_the_total_effect(trace):
    fractions = trace.fractions("hidden")

    assert fractions[3][2] == pytest.approx(trace.effects("hidden")[3][2] / 0.58)


@pytest.mark.parametrize(
    "scores",
    [
        {"clean": 0.62, "corrupted": 0.6},
        {"clean": 0.5, "corrupted": 0.5},
        {"clean": 0.0, "corrupted": -0.05, "metric": "kl"},
    ],
)
def test_there_are_no_fractions_of_a_total_effect_too_small_to_divide_by(scores):
    assert causal_trace(**scores).fractions("hidden") is None


def test_a_small_probability_may_still_have_fractions():
    assert causal_trace(clean=0.01, corrupted=0.0001).fractions("hidden") is not None


def test_bounds_are_students_over_the_samples(trace):
    low, high = trace.intervals("hidden")[3][2]

    assert (high - low) / 2 == pytest.approx(0.01 * 2.262157)
    assert (low + high) / 2 == pytest.approx(trace.effects("hidden")[3][2])
    assert trace.intervals("hidden", confidence=0.5)[3][2][1] < high


def test_a_single_sample_has_no_bounds():
    trace = causal_trace(samples=1)

    assert trace.intervals("hidden")[3][2] is None
    assert (trace.rows()[0]["low"], trace.rows()[0]["high"]) == (None, None)


def test_rows_are_tidy_and_complete(trace):
    rows = trace.rows()

    assert len(rows) == 3 * len(WORDS) * 6
    assert list(rows[0]) == [
        "kind", "token_index", "token", "role", "corrupted", "layer", "score", "effect",
        "standard_error", "low", "high",
    ]  # fmt: skip
    assert rows[3 * 6 + 2] | {"score": 0, "effect": 0, "low": 0, "high": 0} == {
        "kind": "hidden", "token_index": 3, "token": "le", "role": "last_subject",
        "corrupted": True, "layer": 2, "score": 0, "effect": 0, "standard_error": 0.01,
        "low": 0, "high": 0,
    }  # fmt: skip


def test_the_repr_is_one_line_that_says_the_most(trace):
    assert repr(trace).startswith("<CausalTrace ")
    assert "Seattle" in repr(trace)
    assert "total effect +0.58" in repr(trace)
    assert "\n" not in repr(trace)


@pytest.mark.parametrize(
    "exhibit",
    [causal_trace(), average_trace(), location(), causal_trace().minus(causal_trace(seed=1))],
    ids=lambda exhibit: type(exhibit).__name__,
)
class TestEveryExhibit:
    def test_json_gives_back_the_same(self, exhibit):
        assert type(exhibit).from_json(exhibit.to_json()) == exhibit
        assert json.loads(exhibit.to_json()) == exhibit.to_dict()

    @pytest.mark.parametrize("suffix", [".npz", ".json"])
    def test_a_file_gives_back_the_same(self, exhibit, suffix, tmp_path):
        path = tmp_path / f"saved{suffix}"

        exhibit.save(path)

        assert type(exhibit).load(path) == exhibit

    def test_csv_has_a_line_a_row(self, exhibit, tmp_path):
        exhibit.save(tmp_path / "saved.csv")

        read = list(csv.DictReader(io.StringIO((tmp_path / "saved.csv").read_text("utf-8"))))
        assert len(read) == len(exhibit.rows())
        assert list(read[0]) == list(exhibit.rows()[0])

    def test_it_survives_pickling(self, exhibit):
        assert pickle.loads(pickle.dumps(exhibit)) == exhibit

    def test_another_document_is_not_taken_for_it(self, exhibit):
        document = exhibit.to_dict() | {"schema": "errata.causal_trace/99"}

        with pytest.raises(errata.InvalidInputError, match="errata.causal_trace/99"):
            type(exhibit).from_dict(document)

    def test_its_html_draws_it_and_describes_it(self, exhibit):
        html = exhibit._repr_html_()

        assert "<svg" in html
        assert 'aria-label="' in html


def test_the_document_names_its_schema(trace):
    assert trace.to_dict()["schema"] == "errata.causal_trace/1"


def test_what_the_ledger_stores_is_a_document_the_client_reads(trace):
    stored = results.encode(results.decode(domain.CausalTrace, trace.to_json().encode()))

    assert errata.CausalTrace.from_json(stored) == dataclasses.replace(trace, digest="")


def test_arrays_have_a_row_a_token_and_a_column_a_layer(trace):
    arrays = trace.to_numpy()

    assert arrays["hidden_scores"].shape == (len(WORDS), 6)
    assert arrays["hidden_scores"].dtype == np.float64
    assert np.array_equal(arrays["hidden_effects"], arrays["hidden_scores"] - 0.04)
    assert list(arrays["tokens"]) == list(WORDS)
    assert list(np.flatnonzero(arrays["corrupted_tokens"])) == list(range(*SUBJECT))


def test_a_missing_value_of_a_chart_is_nan_in_its_array():
    found = location().to_numpy()["chart0"]

    assert np.isnan(found[0, 1])
    assert found.shape == (2, 3)


def test_an_npz_file_holds_nothing_pickled(trace, tmp_path):
    trace.save(tmp_path / "t.npz")

    with np.load(tmp_path / "t.npz", allow_pickle=False) as archive:
        assert {archive[name].dtype.kind for name in archive.files} <= set("fUb")


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + b"\0" * 18, b"not an archive"])
def test_a_file_that_is_no_result_is_an_error_that_names_it(content, tmp_path):
    path = tmp_path / "t.npz"
    path.write_bytes(content)

    with pytest.raises(errata.InvalidInputError, match="t.npz"):
        errata.CausalTrace.load(path)


def test_an_archive_with_a_pickle_in_it_is_refused(tmp_path):
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(path, "w") as archive:
        content = io.BytesIO()
        np.save(content, np.array({"a": 1}, dtype=object), allow_pickle=True)
        archive.writestr("document.npy", content.getvalue())

    with pytest.raises(errata.InvalidInputError, match="t.npz"):
        errata.CausalTrace.load(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(errata.InvalidInputError, match="No such file"):
        errata.CausalTrace.load(tmp_path / "t.json")


def test_a_difference_is_the_one_effect_less_the_other():
    after = causal_trace(answer="Rome", clean=0.9, corrupted=0.1, sequence=4)
    before = causal_trace(seed=3)

    difference = after.minus(before)

    expected = after.effects("mlp")[3][1] - before.effects("mlp")[3][1]
    assert difference.effects("mlp")[3][1] == expected
    assert difference.standard_errors("mlp")[3][1] == pytest.approx(0.01 * 2**0.5)
    row = difference.rows()[3 * 6 + 1]
    assert row["effect"] - row["effect_against"] == pytest.approx(row["difference"])
    assert row["low"] < row["difference"] < row["high"]


def test_a_difference_names_both_answers_and_both_revisions():
    difference = causal_trace(answer="Rome", sequence=4).minus(causal_trace())

    shown = difference.picture()
    for word in ("Rome", "Seattle", "revision 4 on main", "revision 3 on main"):
        assert word in shown.subtitle
        assert word in repr(difference)


def test_the_peak_of_a_difference_may_be_negative():
    low = causal_trace(clean=0.3)
    difference = low.minus(causal_trace(clean=0.9))

    assert difference.peak("hidden").effect < 0
    assert (difference.peak("hidden").token, difference.peak("hidden").layer) == (3, 2)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("tokens", causal_trace(words=(*WORDS[:-1], " by"))),
        ("kinds", causal_trace(kinds=("hidden",))),
        ("metric", causal_trace(metric="kl")),
        ("window", causal_trace(window=3)),
        ("layers", causal_trace(layers=4)),
    ],
)
def test_traces_of_different_things_have_no_difference(trace, name, other):
    with pytest.raises(errata.InvalidInputError, match=f"the {name} of one are") as failure:
        trace.minus(other)

    assert failure.value.metadata == {"field": name}


def test_an_average_finds_its_highest_curve():
    curve, layer = average_trace().peak("hidden")

    assert (curve.role, layer) == (errata.TokenRole.LAST_SUBJECT, 2)
    with pytest.raises(errata.InvalidInputError, match="only hidden, mlp, attn"):
        average_trace().peak("severed_mlp")
