"""Pictures: what they show, that everything can be read, and that nothing leaks out of them."""

import functools
import itertools
import subprocess
import sys

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

import errata
from errata import _canvas
from errata._charts import label, signed, unsigned
from tests.contract.sources import ROOT
from tests.support.exhibits import WORDS, average_trace, causal_trace, chart, location

AWKWARD = (
    " $x^2$", " _", " \\alpha", "\n", "\t", "", "   ", " \u6771\u4eac", " \U0001f600", " <b>&",
    " a_very_long_token_that_never_ends", "\x1b[31m", " \u202eabc", " e\u0301",
)  # fmt: skip


def texts(figure):
    """Every text of a figure that says something, with the box it takes."""
    figure.draw_without_rendering()
    found = [text for text in figure.findobj(mpl.text.Text) if text.get_text().strip()]
    return [text for text in found if text.get_visible()]


def boxes(figure):
    return {text.get_text(): text.get_window_extent() for text in texts(figure)}


def said(figure):
    return "\n".join(text.get_text() for text in texts(figure))


def maps(figure):
    """The axes that hold a heat map, in order."""
    return [axes for axes in figure.axes if axes.get_xlabel().startswith(("layer", "column"))]


def mesh(axes):
    (found,) = [c for c in axes.collections if hasattr(c, "get_clim")]
    return found


def test_a_trace_has_a_panel_a_kind_with_tokens_down_and_layers_across():
    figure = causal_trace().plot()

    panels = maps(figure)
    assert len(panels) == 3
    names = [tick.get_text() for tick in panels[0].get_yticklabels()]
    assert names == ["The", "Space*", "Need*", "le*", "is", "in", "the", "city", "of"]
    assert [tick.get_text() for tick in panels[0].get_xticklabels()] == list("012345")
    assert panels[0].yaxis_inverted()


def test_a_trace_names_prompt_answer_scores_kinds_window_and_the_caveat():
    words = said(causal_trace().plot())

    for expected in (
        "The Space Needle is in the city of", "Seattle", "0.62 clean", "0.04 corrupted",
        "Hidden state", "MLP outputs, windows of 10 layers", "does not choose the layer to edit",
        "p(\u201cSeattle\u201d)", "revision 3 on main",
    ):  # fmt: skip
        assert expected in words, expected


def test_one_kind_can_be_drawn_alone_or_on_axes_of_ones_own():
    trace = causal_trace()
    mine = Figure()
    axes = mine.subplots()

    assert len(maps(trace.plot("mlp"))) == 1
    assert trace.plot("mlp", ax=axes) is mine
    assert "MLP outputs" in axes.get_title(loc="left")
    with pytest.raises(errata.InvalidInputError, match="name the kind"):
        trace.plot(ax=axes)
    with pytest.raises(errata.InvalidInputError, match="was not traced"):
        trace.plot("severed_mlp")


def test_the_scale_is_centred_on_the_corrupted_score_and_clips_nothing():
    trace = causal_trace(clean=0.3, corrupted=0.25)
    low, high = mesh(maps(trace.plot("hidden"))[0]).get_clim()

    scores = [score for row in trace.grid("hidden").scores for score in row]
    assert (low + high) / 2 == pytest.approx(0.25)
    assert min(scores) < 0.25
    assert low <= min(scores)
    assert max(scores) <= high


def test_kinds_share_one_scale_so_that_they_can_be_compared():
    limits = {mesh(axes).get_clim() for axes in maps(causal_trace().plot())}

    assert len(limits) == 1


def test_a_trace_without_any_effect_can_be_drawn():
    flat = causal_trace(clean=0.5, corrupted=0.5)

    low, high = mesh(maps(flat.plot("hidden"))[0]).get_clim()
    assert low < 0.5 < high
    assert "none, every cell is 0" in said(flat.plot())


@pytest.mark.parametrize("layers", [1, 2, 12, 13, 32, 48, 80, 126])
def test_layers_are_numbered_however_many_there_are(layers):
    (axes,) = maps(causal_trace(layers=layers).plot("hidden"))

    names = [tick.get_text() for tick in axes.get_xticklabels()]
    assert names[0] == "0"
    assert min(layers, 6) <= len(names) <= 12
    places = [int(name) + 0.5 for name in names]
    assert list(axes.get_xticks()) == places
    assert max(places) < layers


def test_long_prompts_lose_the_tokens_before_the_subject_and_say_so():
    trace = causal_trace(words=tuple(f" w{n}" for n in range(70)), subject=(30, 32))

    (axes,) = maps(trace.plot("hidden"))
    assert axes.get_yticklabels()[0].get_text() == "w30*"
    assert "30 tokens before the subject" in said(axes.figure).replace("\n", " ")


EXHIBITS = {
    "trace": causal_trace(),
    "deep": causal_trace(layers=48, kinds=tuple(errata.TraceKind)[1:]),
    "awkward": causal_trace(words=AWKWARD, subject=(3, 6), metric="logit_difference"),
    "long": causal_trace(words=tuple(f" word{n}" for n in range(120)), subject=(2, 4)),
    "one": causal_trace(words=("Rome",), subject=(0, 1), layers=1, kinds=("hidden",)),
    "wordy": causal_trace(prompt="a very long prompt " * 20),
    "difference": causal_trace(answer="Rome", sequence=4).minus(causal_trace(seed=5)),
    "average": average_trace(),
    "deep average": average_trace(layers=40, kinds=("hidden",)),
    "location": location(),
    "long titles": location(
        *(
            chart(form, title="An approximation of something long: " * 3, unit="a long unit " * 5)
            for form in ("heat_map", "heat_map", "lines", "bars")
        )
    ),
    "many lines": location(chart("lines", rows=tuple(f"line {n}" for n in range(12)))),
    "long names": location(chart(columns=tuple(f"a long name {n}" for n in range(20)))),
    "many bars": location(chart("bars", rows=("one",), columns=tuple(map(str, range(48))))),
}


@functools.cache
def drawn(name):
    """The picture of one of `EXHIBITS`, laid out."""
    figure = EXHIBITS[name].plot()
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("name", EXHIBITS)
class TestEveryPicture:
    def test_words_stay_inside_the_picture(self, name):
        figure = drawn(name)

        found = boxes(figure)
        width, height = figure.bbox.width, figure.bbox.height
        outside = {
            text: box
            for text, box in found.items()
            if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
        }
        assert outside == {}

    def test_headings_do_not_lie_on_each_other(self, name):
        title, subtitle, caption = drawn(name).texts
        panels = [axes for axes in drawn(name).axes if axes.get_title(loc="left")]

        lines = title.get_text().count("\n") + 1
        written = title.get_text().rstrip("\n").count("\n") + 1
        box, under = title.get_window_extent(), subtitle.get_window_extent()
        assert under.y1 <= box.y1 - box.height * written / lines + 1
        for axes in panels:
            shown = axes.get_tightbbox()
            assert shown.y1 <= under.y0 + 1
            assert shown.y0 >= caption.get_window_extent().y1 - 1

    def test_panels_do_not_lie_on_each_other(self, name):
        panels = [axes for axes in drawn(name).axes if axes.get_title(loc="left")]

        found = [axes.get_tightbbox() for axes in panels]
        for one, other in itertools.combinations(found, 2):
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            down = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert across <= 2 or down <= 2

    def test_the_labels_of_an_axis_do_not_lie_on_each_other(self, name):
        for axes in drawn(name).axes:
            across = [text for text in axes.get_xticklabels() if not text.get_rotation()]
            for side, labels in (("x", across), ("y", axes.get_yticklabels())):
                shown = [text.get_window_extent() for text in labels if text.get_text()]
                spans = sorted(
                    (box.x0, box.x1) if side == "x" else (box.y0, box.y1) for box in shown
                )
                for (_, end), (begin, _) in itertools.pairwise(spans):
                    assert begin >= end - 2, axes.get_title(loc="left")

    def test_a_notebook_shows_it(self, name):
        assert _canvas.image(drawn(name), ".svg").startswith(b"<?xml")


@pytest.mark.parametrize(
    ("suffix", "begin"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")]
)
def test_the_suffix_says_what_is_written(suffix, begin, tmp_path):
    path = tmp_path / f"picture{suffix}"

    causal_trace(kinds=("hidden",)).save(path)

    assert path.read_bytes().startswith(begin)


def test_text_is_drawn_as_text_and_never_as_mathematics():
    figure = causal_trace(words=AWKWARD, subject=(3, 6), answer="$\\frac{1}{2}$").plot()

    assert all(not text.get_parse_math() for text in texts(figure))


def test_characters_that_no_font_has_are_spelled_out():
    drawn = _canvas.drawable("a\u1234b \U000e0001")

    assert drawn == "a\\u1234b \\U000e0001"


def test_labels_show_white_space_and_control_characters():
    assert [label(text) for text in ("\n", "\t", "", "  ", " word", "\x1b[0m")] == [
        "\u23ce", "\u21e5", "\u2205", "\u2423\u2423", "word", "\\x1b[0m",
    ]  # fmt: skip
    assert label("x" * 50) == "x" * 19 + "\u2026"


def test_numbers_have_the_sign_of_print():
    assert (signed(-0.5), signed(0.25)) == ("\u22120.5", "+0.25")
    assert [unsigned(n) for n in (4096.0, 4096, -1.0, -0.0, 0.12345)] == [
        "4,096",
        "4,096",
        "\u22121",
        "0",
        "0.123",
    ]


def test_panels_in_other_units_have_scales_of_their_own():
    large = chart(unit="nats", values=((-50.0, 50.0),), rows=("a",), columns=("0", "1"))
    small = chart(unit="share", values=((-0.5, 0.5),), rows=("a",), columns=("0", "1"))

    limits = [mesh(axes).get_clim() for axes in maps(location(large, small).plot())]

    assert limits == [(-50.0, 50.0), (-0.5, 0.5)]


def test_rows_that_are_numbers_say_what_they_count():
    figure = location(chart(rows=("0", "1"), row_axis="layer that predicts")).plot()

    assert "layer that predicts" in said(figure)


def test_a_picture_carries_its_warnings():
    assert "Note: the model says Rome" in said(
        causal_trace(warnings=("the model says Rome",)).plot()
    )


def test_settings_of_the_process_change_nothing():
    before = dict(mpl.rcParams)
    with mpl.rc_context({"text.color": "white", "axes.facecolor": "black", "font.size": 30}):
        odd = _canvas.image(causal_trace().plot(), ".png")

    assert dict(mpl.rcParams) == before
    assert odd == _canvas.image(causal_trace().plot(), ".png")


def test_drawing_loads_no_pyplot():
    code = (
        "import sys; sys.path[:0] = [%r, %r]\n"
        "from tests.support.exhibits import causal_trace\n"
        "causal_trace()._repr_html_()\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    command = [sys.executable, "-c", code % (str(ROOT), str(ROOT / "client"))]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)

    assert finished.stdout == "False\n"


def test_markup_in_a_prompt_stays_text_in_a_notebook():
    html = causal_trace(words=("--><script>", ' is"', " it"), subject=(0, 1))._repr_html_()

    assert "<script>" not in html
    described = html.partition('aria-label="')[2].partition('" style=')[0]
    assert '"' not in described
    assert "&lt;script&gt; is&quot; it" in described


def test_an_average_has_a_heat_map_and_curves_with_bands_for_each_kind():
    figure = average_trace().plot()

    assert len(maps(figure)) == 6
    curves = maps(figure)[1]
    assert len(curves.get_lines()) == 7, "six roles and the line at nought"
    assert len(curves.collections) == 6
    names = [text.get_text() for text in curves.get_legend().get_texts()]
    assert names[2] == "last subject token (n = 182)"


def test_a_location_says_what_it_shows_and_cannot_show():
    words = said(location().plot())

    assert "Shows: Which layers carry the subject to the last token." in words
    assert "Cannot show: Where the fact is stored." in words
    assert "Geva et al. 2023" in words


def test_a_line_whose_name_begins_with_an_underscore_is_in_the_legend():
    figure = location(chart("lines", rows=("_hidden", "b"))).plot()

    names = [text.get_text().strip() for text in maps(figure)[0].get_legend().get_texts()]
    assert names == ["_hidden", "b"]


def test_a_missing_value_is_no_colour_and_no_point():
    drawn = location(chart(values=((None, 1.0, 2.0), (None, None, None)))).plot()

    assert mesh(maps(drawn)[0]).get_array().mask.sum() == 4


def test_a_chart_without_values_can_be_drawn():
    empty = chart(rows=(), columns=(), values=())

    assert _canvas.image(location(empty).plot(), ".png")
    assert _canvas.image(location(chart("lines", rows=(), values=())).plot(), ".png")


def test_words_of_a_trace_are_the_tokens_of_the_prompt():
    assert "".join(WORDS) == causal_trace().prompt
