"""Pictures in the terminal: the same numbers as in print, on any width, without colour."""

import io
import re

import pytest
from rich.console import Console

from errata.cli import _pictures as pictures
from tests.support.exhibits import average_trace, causal_trace, chart, location


def drawn(exhibit, width=100, *, colour=False, grids_only=False):
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
    )
    for renderable in pictures.picture(exhibit.picture(), width, grids_only=grids_only):
        if isinstance(renderable, str):
            console.print(renderable, markup=False, soft_wrap=True)
        else:
            console.print(renderable)
    return stream.getvalue()


def row(text, name):
    (found,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return found.removeprefix(name).split()


def test_a_cell_is_its_effect_with_a_sign_in_the_unit_that_is_named():
    trace = causal_trace(kinds=("hidden",))
    text = drawn(trace)

    assert "above the corrupted run, in units of 0.01" in text
    expected = [f"{round(effect / 0.01):+d}" for effect in trace.effects("hidden")[3]]
    assert row(text, "le*") == [*expected[:5], "\u00b7"]
    assert expected[5] == "+0"
    assert row(text, "The") == ["\u00b7"] * 6
    assert any(value.startswith("-") for value in row(text, "Space*"))


def test_colours_add_nothing_but_colours():
    trace = causal_trace(kinds=("hidden",))
    coloured = drawn(trace, colour=True)

    assert "\x1b[" in coloured
    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert bare == drawn(trace)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_deep_models_are_broken_into_blocks_that_fit(width):
    text = drawn(causal_trace(layers=48, kinds=("hidden",)), width)

    grid = text.partition("layer 14\n")[2].partition("\n\n")[0].splitlines()
    assert all(len(line.rstrip()) <= width for line in grid)
    heads = [line.split()[1:] for line in grid if line.startswith("token")]
    assert [int(layer) for head in heads for layer in head] == list(range(48))


def test_a_difference_shows_both_signs():
    text = drawn(causal_trace(clean=0.3).minus(causal_trace(kinds=("hidden", "mlp", "attn"))))

    assert "minus revision 3 on main" in text
    assert "-" in text.partition("le*")[2].splitlines()[0]


def test_an_average_names_its_roles_in_full():
    text = drawn(average_trace(kinds=("mlp",)), grids_only=True)

    assert "last subject token (n = 182)" in text
    assert text.count("MLP outputs") == 1


def test_lines_and_bars_are_tables_with_bounds():
    text = drawn(location(chart("bars", rows=("one", "two"), columns=("a", "b"))))

    assert "one" in text
    assert "1.1 [1.05, 1.15]" in text


def test_a_missing_value_is_a_dash_and_markup_is_text():
    found = chart(values=((None, 1.0, 2.0), (0.5, None, 1.5)), rows=("[red]a", "b"))

    assert row(drawn(location(found)), "[red]a")[0] == "-"


def test_names_across_get_the_room_they_need():
    columns = ("first token", "last token")

    assert "first token  last token" in drawn(
        location(chart(columns=columns, values=((0, 1), (2, 3))))
    )


def test_nothing_to_show_is_no_failure():
    assert "A chart" in drawn(location(chart(rows=(), columns=(), values=())))
