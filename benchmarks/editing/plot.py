"""Quality against the number of edits, as one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

PANELS: Final = {
    "score": "S (ES, PS, NS), %",
    "exact_score": "exact answers: harmonic mean, %",
    "neighbourhood_drop": "neighbours lost, points",
    "perplexity_ratio": "perplexity of fixed prose, times the base's",
}
MARKS: Final = "os^vDPX<>*hp"
"""A mark each, so that colour is not the only difference."""

Row = Mapping[str, str | float]


def write_plot(rows: Sequence[Row], path: Path) -> None:
    """Draw ``rows`` (method, edits and figures each) into ``path``; its suffix says how."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 2)
    for axes, (name, title) in zip(panels.flat, PANELS.items(), strict=True):
        _draw(axes, rows, name)
        axes.set_title(title, fontsize=10)
    panels[1, 1].set_yscale("log")
    panels[0, 0].legend(fontsize=8)
    figure.savefig(path)


def _draw(axes: Axes, rows: Sequence[Row], name: str) -> None:
    for mark, method in zip(MARKS, dict.fromkeys(row["method"] for row in rows), strict=False):
        points = sorted(
            (float(row["edits"]), float(row[name]))
            for row in rows
            if row["method"] == method and name in row
        )
        axes.plot(*zip(*points, strict=True), marker=mark, label=str(method))
    axes.set_xscale("log")
    axes.set_xlabel("edits")
    axes.grid(visible=True, alpha=0.3)
