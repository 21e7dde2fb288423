import pytest

from errata_server.domain.answers import begins_with


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Paris", "Paris"),
        (" Paris, of course", "Paris"),
        ("\nParis's streets", "Paris"),
        ("New York City", "New York"),
        ("U.S. Army", "U.S."),
        ("東京です", "東京"),
        ("Cafe\u0301 au lait", "Caf\u00e9"),
        ("1990.", "1990"),
    ],
)
def test_an_answer_that_starts_with_whole_expected_words_holds(answer, expected):
    assert begins_with(answer, expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Parisian life", "Paris"),
        ("paris", "Paris"),
        ("The city of Paris", "Paris"),
        ("", "Paris"),
        ("Paris", ""),
        ("19901", "1990"),
        ("Cafe\u0301", "Cafe"),
    ],
)
def test_an_answer_that_starts_otherwise_does_not_hold(answer, expected):
    assert not begins_with(answer, expected)
