import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata_server.domain import canonical

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES, max_size=5))
def test_what_is_encoded_is_decoded_and_encoded_to_the_same_bytes(value):
    body = canonical.encode(value)

    assert canonical.decode(body) == value
    assert canonical.encode(canonical.decode(body)) == body


def test_the_order_of_keys_does_not_matter():
    assert canonical.encode({"b": 1, "a": [2, 3]}) == canonical.encode({"a": [2, 3], "b": 1})


def test_there_is_no_white_space_and_no_escaping():
    assert canonical.encode({"a": "é", "b": [1, 2]}) == '{"a":"é","b":[1,2]}'.encode()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical.encode({"a": value})


def test_a_digest_is_sha_256_in_hex():
    assert canonical.digest(b"abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
