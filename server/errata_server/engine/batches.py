"""Many edits computed together: their keys first, then their values in shared passes.

Invariants: a batch goes through the model in groups small enough for memory and for those who
wait for the model meanwhile; an edit that cannot be computed does not keep the others from it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from errata_server import telemetry
from errata_server.domain.answers import begins_with
from errata_server.domain.batches import NearSubjects
from errata_server.domain.errors import AlreadyTrueError, InvalidInputError, PreconditionError
from errata_server.domain.facts import EditRequest
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.domain.profiles import ModelDescription, Profile
from errata_server.engine import answers
from errata_server.engine.contexts import Contexts, contexts_of
from errata_server.engine.crowd import Crowd
from errata_server.engine.editor import Recognition, assemble, recognise
from errata_server.engine.inspection import whitened_cosines
from errata_server.engine.measure import EXTRA_TOKENS
from errata_server.engine.patch import PatchTensors
from errata_server.engine.runner import BASE, Runner
from errata_server.engine.solve import match
from errata_server.engine.values import optimise_values

MEMORY: Final = 512 * 1024 * 1024
"""Bytes that the activations of one group may take."""

TAIL: Final = 2_048
"""Positions a residual reaches in one group; more would only keep others from the model."""

KEPT_STATES: Final = 34
"""Hidden states a layer keeps for the way back, about: norms, attention, the MLP's inside."""

ASKED: Final = 32
"""Prompts that are put to the base model together, and edits whose keys are taken so."""

Computed = PatchTensors | InvalidInputError | PreconditionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Edits of one model and profile, to be computed together."""

    runner: Runner
    profile: Profile
    factor: Float[Tensor, "d_in d_in"]
    requests: Sequence[EditRequest]
    held: Sequence[Sequence[str]]
    """For each edit, prompts about its subject whose answers are to stay."""

    crowd: Crowd
    """What the edits' guards are to keep off."""

    def compute(self, *, progress: ReportProgress) -> Iterator[tuple[int, Computed]]:
        """(place, patch or why there is none) of every edit, as they are found.

        Raises:
            CancelledError: ``progress`` asked for it.
        """
        known = set(already_true(self.runner, self.requests, progress=progress))
        for place in sorted(known):
            yield place, _nothing_to_edit(self.requests[place])
        contexts: dict[int, Contexts] = {}
        for place, request in enumerate(self.requests):
            if place in known:
                continue
            try:
                contexts[place] = contexts_of(
                    self.runner.tokens, request, self.profile, held=self.held[place]
                )
            except InvalidInputError as error:
                yield place, error
        for group in _groups(contexts, self.runner.checkpoint.description):
            yield from self._compute_group(group, contexts, progress)

    def _compute_group(
        self, group: Sequence[int], contexts: dict[int, Contexts], progress: ReportProgress
    ) -> Iterator[tuple[int, Computed]]:
        with telemetry.stage("values"):
            found = list(
                optimise_values(
                    self.runner, [contexts[i] for i in group], self.profile, progress=progress
                )
            )
        with telemetry.stage("keys"):
            recognised = self._recognised([group[index] for index, _ in found], self.crowd)
        for (index, solution), one in zip(found, recognised, strict=True):
            place = group[index]
            if not isinstance(one, Recognition):
                yield place, one
                continue
            try:
                yield (
                    place,
                    assemble(self.runner, self.requests[place], self.profile, one, solution),
                )
            except PreconditionError as error:
                yield place, error

    def _recognised(
        self, places: Sequence[int], crowd: Crowd | None
    ) -> list[Recognition | InvalidInputError | PreconditionError]:
        """The edits at ``places`` in shared passes; by themselves if one cannot be."""
        requests = [self.requests[place] for place in places]
        try:
            return [*recognise(self.runner, requests, self.profile, self.factor, crowd=crowd)]
        except (InvalidInputError, PreconditionError) as error:
            if len(places) == 1:
                return [error]
        return [one for place in places for one in self._recognised([place], crowd)]

    def near_subjects(
        self, *, conflict: float, progress: ReportProgress
    ) -> tuple[NearSubjects, ...]:
        """Pairs whose conflict is above ``conflict``, or one of whose guards meets the other.

        Raises:
            CancelledError: ``progress`` asked for it.
        """
        found: dict[int, Recognition] = {}
        for start in range(0, len(self.requests), ASKED):
            progress(Progress(stage="keys", done=start, total=len(self.requests)))
            places = range(len(self.requests))[start : start + ASKED]
            # One that cannot be computed is near nobody; `compute` says why.
            pairs = zip(places, self._recognised(places, None), strict=True)
            found |= {place: one for place, one in pairs if isinstance(one, Recognition)}
        if not found:
            return ()
        known = list(found)
        conflicts, matches = _between(list(found.values()))
        fires = matches > 1 - self.profile.guard_width
        near = ((conflicts > conflict) | fires | fires.T).triu(1).nonzero().tolist()
        return tuple(
            NearSubjects(
                first=known[first],
                second=known[second],
                conflict=float(conflicts[first, second]),
                first_fires=bool(fires[first, second]),
                second_fires=bool(fires[second, first]),
            )
            for first, second in near
        )


def _between(
    found: Sequence[Recognition],
) -> tuple[Float[Tensor, "edit edit"], Float[Tensor, "edit edit"]]:
    """For every pair of edits: the largest cosine of their keys, and of a guard on the other."""
    keys = torch.cat([one.keys for one in found]).double()
    matchers = torch.cat([one.matchers for one in found])
    leverages = torch.cat([one.leverages for one in found])
    owners = torch.arange(len(found)).repeat_interleave(
        torch.tensor([len(one.keys) for one in found])
    )
    cosines = whitened_cosines(keys, leverages, (keys, matchers, leverages))
    met = match(keys, matchers).T  # guard's key by met key
    return _largest(cosines, owners), _largest(met, owners)


def _largest(values: Float[Tensor, "row row"], owners: Tensor) -> Float[Tensor, "edit edit"]:
    """The largest value between the rows of every two owners."""
    count, width = int(owners[-1]) + 1, len(owners)
    lowest = torch.full((count, width), -torch.inf, dtype=values.dtype)
    by_row = lowest.scatter_reduce(0, owners[:, None].expand(width, width), values, "amax")
    lowest = torch.full((count, count), -torch.inf, dtype=values.dtype)
    return lowest.scatter_reduce(1, owners[None].expand(count, width), by_row, "amax")


def already_true(
    runner: Runner, requests: Sequence[EditRequest], *, progress: ReportProgress
) -> list[int]:
    """Places of those whose every target the base model gives already.

    Raises:
        CancelledError: ``progress`` asked for it.
    """
    rows = [
        (place, fact.prompt(request.subject), fact.target)
        for place, request in enumerate(requests)
        for fact in request.facts
    ]
    wrong: set[int] = set()
    for start in range(0, len(rows), ASKED):
        progress(Progress(stage="base answers", done=start, total=len(rows)))
        some = rows[start : start + ASKED]
        room = max(len(runner.tokens.target(target)) for _, _, target in some) + EXTRA_TOKENS
        prompts = [prompt for _, prompt, _ in some]
        said = answers.continue_greedily(runner, prompts, BASE, new_tokens=room)
        pairs = zip(some, said, strict=True)
        wrong |= {place for (place, _, target), answer in pairs if not begins_with(answer, target)}
    return [place for place in range(len(requests)) if place not in wrong]


def _nothing_to_edit(request: EditRequest) -> AlreadyTrueError:
    prompt, target = request.facts[0].prompt(request.subject), request.facts[0].target
    return AlreadyTrueError(
        f"the base model already answers {target!r} to {prompt!r}; there is nothing to edit",
        field="target",
        prompt=prompt,
        target=target,
    )


def require_change(runner: Runner, request: EditRequest, *, progress: ReportProgress) -> None:
    """Do nothing if ``request`` asks for anything new.

    Raises:
        AlreadyTrueError: the base model gives every target already.
    """
    if already_true(runner, [request], progress=progress):
        raise _nothing_to_edit(request)


def _groups(contexts: dict[int, Contexts], model: ModelDescription) -> list[list[int]]:
    """Places in groups within the budget; tails of like length together, so that few are padded."""
    kept = 4 * KEPT_STATES * model.layers * model.d_model
    groups: list[list[int]] = []
    tail, size = TAIL, MEMORY
    longest = {
        place: max(len(row.ids) - row.place for row in one.rows) for place, one in contexts.items()
    }
    for place in sorted(contexts, key=lambda place: (longest[place], place)):
        one = contexts[place]
        reads = sum(row.reads for row in one.rows)
        own = one.tail * kept + 4 * 4 * reads * model.vocabulary
        if tail + one.tail > TAIL or size + own > MEMORY:
            groups.append([])
            tail, size = 0, 0
        groups[-1].append(place)
        tail, size = tail + one.tail, size + own
    return groups
