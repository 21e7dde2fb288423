"""What may be asked of a locator."""

import pytest

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.locators import Locator, LocatorOption

LOCATOR = Locator(
    name="lens",
    title="Lens",
    shows="something",
    cannot_show="all",
    source="a test",
    options=(
        LocatorOption(name="steps", meaning="steps", default=100, minimum=1, maximum=300),
        LocatorOption(name="scale", meaning="noise", default=3, minimum=0.01, maximum=100),
    ),
)


def test_what_is_not_said_has_its_default():
    assert LOCATOR.chosen({"scale": 2.5}) == {"steps": 100.0, "scale": 2.5}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": 0}, "a whole number from 1 to 300, not 0"),
        ({"steps": 1.5}, "a whole number from 1 to 300, not 1.5"),
        ({"steps": float("nan")}, "not nan"),
        ({"scale": 0}, "a number from 0.01 to 100, not 0"),
        ({"step": 1}, "no option 'step'; it has scale, steps"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(given, words):
    with pytest.raises(InvalidInputError, match=words) as refusal:
        LOCATOR.chosen(given)
    assert refusal.value.metadata["field"] == "options"
