"""The arithmetic of the figures."""

import math

import pytest

from benchmarks.editing.firings import Cause, cause
from benchmarks.editing.judging import Group, Preference, Tally, harmonic_mean, percent
from benchmarks.efficacy import methods_of, sizes_of
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.measurements import Answer


def answer(*, before: bool, after: bool) -> Answer:
    return Answer(
        prompt="p", expected="x", before="", after="", held_before=before, held_after=after
    )


def tally() -> Tally:
    found = Tally()
    found.answers[Group.EFFICACY] = [answer(before=False, after=True)] * 4
    found.answers[Group.PARAPHRASES] = [answer(before=False, after=n < 3) for n in range(4)]
    found.answers[Group.NEIGHBOURS] = [answer(before=True, after=n < 2) for n in range(4)]
    new, true = math.log(0.75), math.log(0.25)
    found.preferences[Group.EFFICACY] = [Preference(new=new, true=true)] * 2
    found.preferences[Group.PARAPHRASES] = [
        Preference(new=new, true=true),
        Preference(new=true, true=new),
    ]
    found.preferences[Group.NEIGHBOURS] = [Preference(new=true, true=new)] * 2
    found.perplexity_ratios = [1.0, 1.5]
    return found


def test_exact_figures_count_free_answers():
    figures = tally().figures()

    assert (figures["efficacy"], figures["paraphrase"]) == (100, 75)
    assert (figures["neighbourhood_before"], figures["neighbourhood_drop"]) == (100, 50)
    assert figures["exact_score"] == pytest.approx(3 / (1 / 100 + 1 / 75 + 1 / 50))


def test_s_is_the_harmonic_mean_of_the_likelihood_scores():
    figures = tally().figures()

    assert (figures["es"], figures["ps"], figures["ns"]) == (100, 50, 100)
    assert figures["score"] == pytest.approx(75)
    assert figures["em"] == pytest.approx(50)
    assert figures["pm"] == pytest.approx(0)
    assert figures["nm"] == pytest.approx(50)


def test_the_mean_and_the_largest_perplexity_ratio_are_told():
    figures = tally().figures()

    assert figures["perplexity_ratio"] == 1.25
    assert figures["perplexity_ratio_largest"] == 1.5


def test_a_figure_nothing_was_asked_for_is_left_out():
    assert not {"reverse", "two_hop", "fluency"} & set(tally().figures())


def test_a_score_of_zero_makes_the_harmonic_mean_zero():
    assert harmonic_mean([100.0, 0.0, 100.0]) == 0


def test_a_share_of_nothing_is_not_a_number():
    assert math.isnan(percent([]))


@pytest.mark.parametrize(
    ("fired", "expected"),
    [
        ([], Cause.DEAF),
        (["Kingdom of Egypt"], Cause.USURPED),
        (["Egypt", "Kingdom of Egypt"], Cause.USURPED),
        (["Egypt"], Cause.VALUE),
        (["Egypt", "Egypt"], Cause.VALUE),
    ],
)
def test_a_miss_has_one_cause(fired, expected):
    assert cause("Egypt", fired) is expected


def test_sizes_stop_at_the_number_of_edits():
    assert sizes_of("300,1,10,1000", 200) == [1, 10, 200]
    assert sizes_of("", 50) == [50]


@pytest.mark.parametrize("text", ["0,10", "ten", "1,,2"])
def test_senseless_sizes_are_refused(text):
    with pytest.raises(InvalidInputError, match="--sweep"):
        sizes_of(text, 100)


def test_an_unknown_method_is_told_the_known_ones():
    with pytest.raises(InvalidInputError, match="r-rome, codebook"):
        methods_of("errata,mend")
