"""Which interventions answer the cells of a trace, and how they share work; plain arithmetic.

A *trajectory* is the corrupted run with one intervention at one token. It leaves the corrupted
run behind one layer (its *birth*) and may be held to other values at that token in the layers
after it. Cells whose interventions are the same share a trajectory, and windows that begin at
the same layer share one until the shorter of them ends (its *fork*). Invariant: trajectories
are in order of birth, parents before their forks, so that those alive are always a prefix.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from errata_server.domain.traces import TraceKind

WINDOWED = frozenset({TraceKind.MLP, TraceKind.ATTN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One intervention, for the column of every token alike."""

    kind: TraceKind
    sites: tuple[int, ...]
    """Layers of the grid it answers."""

    birth: int
    """The layer behind which it leaves the corrupted run, or its parent."""

    held_until: int
    """The first layer after its birth in which nothing is held."""

    parent: "Trajectory | None" = None
    """The trajectory it forks from."""


def window_of(layer: int, layers: int, width: int) -> tuple[int, int]:
    """[first, end) of the window around ``layer``, clipped to the model.

    As the published code has it: layer - 5 to layer + 4 for a width of 10.
    """
    first = layer - width // 2
    return max(0, first), min(layers, first + width)


def trajectories(
    kinds: Sequence[TraceKind], layers: int, width: int
) -> tuple[tuple[Trajectory, ...], ...]:
    """Families of trajectories: a trajectory with its forks, or one alone."""
    families: list[tuple[Trajectory, ...]] = []
    for kind in kinds:
        if kind in WINDOWED:
            families += _windows(kind, layers, width)
        else:
            families += [(_state(kind, layer, layers),) for layer in range(layers)]
    return tuple(families)


def _state(kind: TraceKind, layer: int, layers: int) -> Trajectory:
    held = layer + 1 if kind is TraceKind.HIDDEN else layers
    return Trajectory(kind=kind, sites=(layer,), birth=layer, held_until=held)


def _windows(kind: TraceKind, layers: int, width: int) -> list[tuple[Trajectory, ...]]:
    """Windows grouped by their first layer; the longest of a group is the parent."""
    sites: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for layer in range(layers):
        first, end = window_of(layer, layers, width)
        sites[first][end].append(layer)
    families = []
    for first, by_end in sites.items():
        longest = max(by_end)
        parent = Trajectory(
            kind=kind, sites=tuple(by_end[longest]), birth=first, held_until=longest
        )
        forks = [
            Trajectory(
                kind=kind, sites=tuple(by_end[end]), birth=end - 1, held_until=end, parent=parent
            )
            for end in by_end
            if end < longest
        ]
        families.append((parent, *forks))
    return families


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The trajectories of one token's column that advance together."""

    token: int
    samples: range
    trajectories: tuple[Trajectory, ...]

    @classmethod
    def of(cls, token: int, samples: range, families: Sequence[tuple[Trajectory, ...]]) -> "Part":
        """A part with the trajectories of ``families`` in order of birth."""
        members = [member for family in families for member in family]
        # A fork born with its parent must come behind it.
        members.sort(key=lambda one: (one.birth, one.parent is not None))
        return cls(token=token, samples=samples, trajectories=tuple(members))

    def states(self, tokens: int) -> int:
        """Positions this part holds: samples times trajectories times tokens from its own on."""
        return len(self.samples) * len(self.trajectories) * (tokens - self.token)


class Limits(NamedTuple):
    """How many positions of the residual stream may be in flight."""

    states: int
    """Kept from layer to layer."""

    together: int
    """Of one trajectory in all its samples, which go through a layer together."""


def waves(
    columns: Sequence[int],
    families: Sequence[tuple[Trajectory, ...]],
    *,
    samples: int,
    tokens: int,
    limits: Limits,
) -> list[list[Part]]:
    """Parts grouped into walks through the layers, within ``limits``.

    A part of one sample and one family is not split any further.
    """
    planned: list[list[Part]] = [[]]
    held = 0
    for token in columns:
        for part in _parts(Part.of(token, range(samples), families), families, tokens, limits):
            size = part.states(tokens)
            if planned[-1] and held + size > limits.states:
                planned.append([])
                held = 0
            planned[-1].append(part)
            held += size
    return [wave for wave in planned if wave]


def _parts(
    part: Part, families: Sequence[tuple[Trajectory, ...]], tokens: int, limits: Limits
) -> list[Part]:
    """``part``, or its halves where it is too large."""
    row = len(part.samples) * (tokens - part.token)
    if part.states(tokens) <= limits.states and row <= limits.together:
        return [part]
    if len(part.samples) > 1:
        middle = len(part.samples) // 2
        pieces = [(part.samples[:middle], families), (part.samples[middle:], families)]
    elif len(families) > 1:
        middle = len(families) // 2
        pieces = [(part.samples, families[:middle]), (part.samples, families[middle:])]
    else:
        return [part]
    return [
        smaller
        for samples, few in pieces
        for smaller in _parts(Part.of(part.token, samples, few), few, tokens, limits)
    ]
