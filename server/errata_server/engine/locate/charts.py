"""Charts out of named rows of numbers.

Invariant: what is not finite is None, so that every chart has a canonical form.
"""

import math
from collections.abc import Sequence

from errata_server.domain.locators import Chart, ChartForm

Values = Sequence[float | int | None]


def chart(
    form: ChartForm,
    title: str,
    rows: Sequence[tuple[str, Values]],
    *,
    columns: Sequence[str],
    axes: tuple[str, str],
    unit: str,
) -> Chart:
    """A chart of named ``rows``; ``axes`` are what its rows and its columns are."""
    return Chart(
        title=title,
        form=form,
        row_axis=axes[0],
        column_axis=axes[1],
        rows=tuple(name for name, _ in rows),
        columns=tuple(columns),
        unit=unit,
        values=tuple(cells(values) for _, values in rows),
    )


def cells(values: Values) -> tuple[float | None, ...]:
    """``values`` with None for what is no number."""
    return tuple(
        None if value is None or not math.isfinite(value) else float(value) for value in values
    )
