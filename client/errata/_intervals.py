"""Student's t quantiles, for intervals around a mean of few samples; pure.

Invariant: within a thousandth of a percent of the exact quantile for confidences from 0.5
to 0.999.
"""

import math
from statistics import NormalDist

from errata._errors import InvalidInputError


def half_width(standard_error: float, samples: int, confidence: float) -> float | None:
    """How far an interval reaches to each side; None for a single sample, which tells nothing.

    Raises:
        InvalidInputError: ``confidence`` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise InvalidInputError(
            f"confidence must be between 0 and 1, not {confidence:g}", {"field": "confidence"}
        )
    if samples < 2:
        return None
    return t_quantile(0.5 + confidence / 2, samples - 1) * standard_error


def t_quantile(probability: float, freedom: int) -> float:
    """The value a t variable stays below with ``probability``, from 0.5 up.

    Exact for one and two degrees of freedom, else Hill's expansion (CACM algorithm 396).
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        centred = 2 * probability - 1
        return centred * math.sqrt(2 / (1 - centred * centred))
    return _hill(2 * (1 - probability), freedom)


def _hill(tails: float, freedom: int) -> float:
    a = 1 / (freedom - 0.5)
    b = 48 / (a * a)
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * freedom
    y = (d * tails) ** (2 / freedom)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tails / 2)
        square = x * x
        if freedom < 5:
            c += 0.3 * (freedom - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * square + 6.3) * square + 36) * square + 94.5) / c - square - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = (
            (
                1 / (((freedom + 6) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2) * 3)
                + 0.5 / (freedom + 4)
            )
            * y
            - 1
        ) * (freedom + 1) / (freedom + 2) + 1 / y
    return math.sqrt(freedom * y)
