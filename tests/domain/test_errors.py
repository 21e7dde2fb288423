import re

import pytest

from errata_server.domain import errors
from errata_server.domain.errors import EditNotFoundError, ErrataError, NotFoundError


def tree(error):
    return {error}.union(*(tree(child) for child in error.__subclasses__()))


ALL = sorted(tree(ErrataError), key=lambda error: error.__name__)


def test_no_two_errors_have_one_reason():
    assert len({error.reason for error in ALL}) == len(ALL)


@pytest.mark.parametrize("error", ALL)
def test_every_error_is_in_the_tree_of_the_module_docstring(error):
    assert error.__name__ in (errors.__doc__ or "")
    assert error.__name__.endswith("Error")
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{1,61}[A-Z0-9]", error.reason)


def test_metadata_is_text():
    error = EditNotFoundError("no such edit", edit="e-1", tried=3)

    assert error.metadata == {"edit": "e-1", "tried": "3"}
    assert str(error) == "no such edit"
    assert isinstance(error, NotFoundError)
