"""Matplotlib figures: made, labelled and written; the one module that uses matplotlib.

Invariants: matplotlib is imported when it is needed and not before; its global state (pyplot,
rcParams) is neither read for what matters nor written, so that pictures look the same in any
process and on any thread; every text can be drawn with the fonts that are there.
"""

import functools
import io
from typing import TYPE_CHECKING, Any, Final

from errata._errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

__all__ = ["Axes", "Figure", "QuadMesh"]  # the types of matplotlib that others name through here

INK: Final = "#1f2328"
FAINT: Final = "#6a737d"
MISSING: Final = "#e7e7e7"
"""Behind cells without a value."""

DOTS_PER_INCH: Final = 160

_FALLBACKS: Final = (
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Noto Sans Symbols",
    "Noto Sans Symbols2",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "Malgun Gothic",
    "PingFang SC",
    "Hiragino Sans",
    "WenQuanYi Zen Hei",
    "Segoe UI Symbol",
    "Segoe UI",
)
"""Asked after DejaVu Sans, which comes with matplotlib, where they are installed."""


def require() -> None:
    """Do nothing where matplotlib is installed.

    Raises:
        MissingExtraError: it is not.
    """
    try:
        import matplotlib  # noqa: F401, PLC0415 - loaded when a picture is asked for
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "pictures need matplotlib, which is not installed; run pip install 'errata[plot]'",
            {"module": "matplotlib", "extra": "plot"},
        ) from error


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches that arranges itself.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require()
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    return figure


def image(figure: "Figure", suffix: str) -> bytes:
    """The bytes of an image file: .png, .svg or .pdf."""
    content = io.BytesIO()
    form = suffix.removeprefix(".")
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    figure.savefig(content, format=form, dpi=DOTS_PER_INCH, metadata=dated.get(form))
    return content.getvalue()


def drawable(text: str) -> str:
    """``text`` with every character that no font here has spelled out."""
    known = _glyphs()
    return "".join(
        c if ord(c) in known or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


@functools.cache
def families() -> tuple[str, ...]:
    """The fonts to draw with, in the order they are asked."""
    from matplotlib import font_manager  # noqa: PLC0415 - as above

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in _FALLBACKS if name in installed))


@functools.cache
def _glyphs() -> frozenset[int]:
    from matplotlib import font_manager, ft2font  # noqa: PLC0415 - as above

    paths = (font_manager.findfont(name) for name in families())
    return frozenset(code for path in paths for code in ft2font.FT2Font(path).get_charmap())


def styled(colour: str = INK) -> dict[str, Any]:
    """How every text is drawn: in our colours and fonts, and never as mathematics."""
    return {"color": colour, "family": list(families()), "parse_math": False}
