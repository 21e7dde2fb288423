"""The picture of quality against the number of edits."""

from benchmarks.editing.plot import PANELS, write_plot


def test_the_plot_names_every_method_and_panel(tmp_path):
    rows = [
        {"method": method, "edits": edits} | dict.fromkeys(PANELS, float(edits))
        for method in ("errata", "rome")
        for edits in (1, 10)
    ]

    write_plot(rows, tmp_path / "quality.svg")

    drawn = (tmp_path / "quality.svg").read_text("utf-8")
    assert drawn.count("<svg") == 1
    for word in ("errata", "rome", *PANELS.values()):
        assert f"<!-- {word} -->" in drawn, word
