import math

import pytest

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.patches import Composition
from errata_server.domain.policies import Policy


def test_values_left_out_keep_their_defaults():
    policy = Policy.from_json({"minimum_efficacy": 0.9, "composition": "linear"})

    assert policy.minimum_efficacy == 0.9
    assert policy.composition is Composition.LINEAR
    assert policy.minimum_paraphrase == Policy().minimum_paraphrase


def test_an_unknown_value_is_refused_with_those_that_are_known():
    with pytest.raises(InvalidInputError, match="unknown policy values maximum_joy; known are"):
        Policy.from_json({"maximum_joy": 1})


@pytest.mark.parametrize("value", [-0.1, "a lot", None])
def test_a_value_that_is_no_threshold_is_refused(value):
    with pytest.raises(InvalidInputError, match="minimum_efficacy") as refused:
        Policy.from_json({"minimum_efficacy": value})

    assert refused.value.metadata["field"] == "minimum_efficacy"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_no_threshold(value):
    with pytest.raises(InvalidInputError, match="minimum_efficacy"):
        Policy(minimum_efficacy=value)


def test_another_threshold_makes_another_digest():
    assert Policy().digest == Policy().digest
    assert Policy().digest != Policy(minimum_efficacy=0.9).digest
