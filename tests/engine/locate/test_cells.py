"""Cells share trajectories, and parts of any size cover each of them once."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from errata_server.domain.traces import TraceKind
from errata_server.engine.locate.cells import Limits, trajectories, waves, window_of

KINDS = st.lists(st.sampled_from(list(TraceKind)), min_size=1, unique=True)


def test_a_window_is_the_published_one_clipped_to_the_model():
    assert window_of(20, 48, 10) == (15, 25)
    assert window_of(0, 48, 10) == (0, 5)
    assert window_of(47, 48, 10) == (42, 48)
    assert window_of(3, 6, 1) == (3, 4)


@given(KINDS, st.integers(1, 14), st.integers(1, 20))
def test_every_cell_is_answered_once(kinds, layers, width):
    families = trajectories(kinds, layers, width)

    answered = Counter(
        (one.kind, site) for family in families for one in family for site in one.sites
    )
    assert answered == Counter((kind, layer) for kind in kinds for layer in range(layers))


@given(st.integers(1, 14), st.integers(1, 20))
def test_a_window_is_held_exactly_as_long_as_it_lasts(layers, width):
    for family in trajectories([TraceKind.MLP], layers, width):
        parent = family[0]
        for one in family:
            for site in one.sites:
                first, end = window_of(site, layers, width)
                assert (parent.birth, one.held_until) == (first, end)
                assert one is parent or (one.birth == end - 1 and one.parent is parent)


def test_windows_that_clip_to_the_same_layers_share_one_trajectory():
    families = trajectories([TraceKind.ATTN], 6, 10)

    assert sum(len(family) for family in families) == 2  # [0, 5) and [0, 6)
    assert families[0][0].sites == (1, 2, 3, 4, 5)


@given(
    KINDS,
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 7),
    st.integers(1, 200),
    st.integers(1, 60),
)
def test_walks_cover_every_trajectory_sample_and_token_within_the_limits(
    kinds, layers, samples, tokens, states, together
):
    families = trajectories(kinds, layers, 3)
    planned = waves(
        range(tokens),
        families,
        samples=samples,
        tokens=tokens,
        limits=Limits(states=states, together=together),
    )

    covered = Counter(
        (part.token, sample, one)
        for wave in planned
        for part in wave
        for sample in part.samples
        for one in part.trajectories
    )
    every = [one for family in families for one in family]
    assert covered == Counter(
        (token, sample, one)
        for token in range(tokens)
        for sample in range(samples)
        for one in every
    )
    for wave in planned:
        sizes = [part.states(tokens) for part in wave]
        smallest = len(wave) == 1 and len(wave[0].samples) == 1
        assert sum(sizes) <= states or smallest


@given(KINDS, st.integers(1, 14), st.integers(1, 20))
def test_the_living_are_always_a_prefix_and_parents_come_first(kinds, layers, width):
    families = trajectories(kinds, layers, width)
    (wave,) = waves(
        [0], families, samples=1, tokens=1, limits=Limits(states=10_000, together=10_000)
    )

    (part,) = wave
    births = [one.birth for one in part.trajectories]
    assert births == sorted(births)
    for index, one in enumerate(part.trajectories):
        if one.parent is not None:
            assert part.trajectories.index(one.parent) < index
