"""Times, numbers and texts on the wire."""

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from errata_server.domain.errors import InvalidFactError, InvalidInputError
from errata_server.rpc.convert import values


def test_a_time_is_the_same_instant_in_any_zone():
    east = datetime(2026, 3, 1, 14, tzinfo=timezone(timedelta(hours=2)))

    message = values.timestamp(east)

    assert message is not None
    assert message.ToDatetime(UTC) == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert values.timestamp(None) is None


@pytest.mark.parametrize(("given", "size"), [(0, 50), (1, 1), (1_000, 1_000), (2**31 - 1, 1_000)])
def test_a_page_has_the_size_asked_for_within_bounds(given, size):
    assert values.page_size(given) == size


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-9, 2.1])
def test_a_number_out_of_bounds_is_refused(value):
    with pytest.raises(InvalidInputError) as refused:
        values.number(value, "temperature", at_most=2)

    assert refused.value.metadata["field"] == "temperature"


def test_a_count_may_have_an_upper_bound():
    assert values.count(3, "n", at_most=3) == 3
    with pytest.raises(InvalidInputError, match="between 0 and 3"):
        values.count(4, "n", at_most=3)


def test_a_text_is_trimmed_and_keeps_its_lines():
    assert values.short_text("  two\nlines ", "reason") == "two\nlines"


@pytest.mark.parametrize("text", ["a\x00b", "a\x1bb", "a\x7fb"])
def test_a_text_without_control_characters(text):
    with pytest.raises(InvalidInputError, match="control character"):
        values.short_text(text, "reason")


def test_a_complaint_inside_names_the_whole_path():
    with pytest.raises(InvalidFactError) as refused, values.within("facts[2]", prompt="template"):
        raise InvalidFactError("bad", field="prompt")

    assert refused.value.metadata["field"] == "facts[2].template"
