"""Does a guard know its subject however it is mentioned, and nothing else?

Random known subjects are looked at, each with its own guard alone. For every way to mention it
(other contexts than its keys were taken in, punctuation, capitals, longer names) the share that the
guard fires on is printed. Against it stand firings per million on ordinary keys whose text does
not name the subject, other ones than its width was made with, and per million mentions of other
subjects: of those the decoys were chosen from (a random half of the known ones), and of the other
half, which stand for near subjects nobody has told the server of. No edit is made: recognition
needs keys alone.
"""

import random
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.document import Document
from benchmarks.editing.workbench import Workbench, open_workbench
from errata_server import files
from errata_server.domain.errors import ErrataError
from errata_server.engine.bank import GuardedBranch
from errata_server.engine.crowd import Crowd
from errata_server.engine.decoys import Known, Own
from errata_server.engine.inspection import UNSEEN
from errata_server.engine.keys import Name, keys_in, keys_of_names, own_width
from errata_server.engine.solve import match, match_keys
from errata_server.engine.subjects import SubjectKeys
from errata_server.engine.tokens import join

MENTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "knows_unseen_contexts": tuple(join(lead, "{}") for lead in UNSEEN),
    "knows_quoted": ('They wrote "{}" on it', 'She called it "{}" again', "\u201c{}\u201d is what"),
    "knows_bracketed": (
        "He spoke (of {} too)",
        "It was there ({}) and",
        "One of them ({}, I think)",
    ),
    "knows_dashes_and_slashes": (
        "It is -{} of course",
        "That was it\u2014{} again",
        "and/or {}",
        "it/{}",
    ),
    "knows_new_lines": ("A list:\n{}\n", "First line.\n{} is", "- {}"),
    "knows_no_space": ("In the end,{} won", "A;{};B"),
    "knows_possessive": ("{}'s oldest part", "Nobody knew {}'s name"),
    "knows_hyphenated": ("a {}-based group", "the pro-{} party"),
    "knows_in_longer_names": (
        "{} Avenue",
        "the {} Review",
        "New {}",
        "Kingdom of {}",
        "Friends of {}",
    ),
    "knows_plural": ("many {}s there",),
}
CASES: Final = {"knows_lower_case": str.lower, "knows_upper_case": str.upper}
CASED: Final = MENTIONS["knows_unseen_contexts"][1:4]
log = Console(stderr=True)


@dataclass(slots=True)
class Count:
    """How often a guard fired, of how many times it might have."""

    fired: int = 0
    of: int = 0

    def add(self, fires: Tensor) -> None:
        """Count the firings of some keys."""
        self.fired += int(fires.sum())
        self.of += fires.numel()

    @property
    def share(self) -> float:
        """Fired of all; 0 of none."""
        return self.fired / self.of if self.of else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """What guards are made with, and what they are measured on."""

    told: Crowd
    untold: Crowd


def halves(crowd: Crowd, seed: int) -> Halves:
    """Half of the known subjects and of the ordinary keys, and the rest, at random."""
    draw = torch.Generator().manual_seed(seed)
    subjects = torch.randperm(len(crowd.known.subjects), generator=draw)
    keys = torch.randperm(len(crowd.moment.sample), generator=draw)
    return Halves(
        told=_part(crowd, subjects[::2].tolist(), keys[::2]),
        untold=_part(crowd, subjects[1::2].tolist(), keys[1::2]),
    )


def _part(crowd: Crowd, subjects: list[int], keys: Int[Tensor, " key"]) -> Crowd:
    known, moment = crowd.known, crowd.moment
    return Crowd(
        moment=replace(moment, sample=moment.sample[keys], sample_texts=moment.sample_texts[keys]),
        texts=crowd.texts,
        known=SubjectKeys(
            subjects=tuple(known.subjects[i] for i in subjects), keys=known.keys[subjects]
        ),
    )


def guard_of(bench: Workbench, subject: str, crowd: Crowd) -> GuardedBranch:
    """The guard an edit of ``subject`` would have, without its value."""
    runner, profile, factor = bench.runner, bench.profile, bench.factor
    (found,) = keys_of_names(runner, [Name(text=subject)], profile, factor)
    keys = found.keys
    matchers, leverages = match_keys(keys, factor)
    matches = match(crowd.ordinary, matchers.float())[crowd.without([subject])]
    own = Own(names=(subject,), matchers=matchers, width=own_width(matches, profile.guard_width))
    known = Known(runner=runner, profile=profile, factor=factor, subjects=crowd.known)
    (decoys,) = known.decoys_of([own])
    return GuardedBranch(
        module=bench.profile.module,
        matchers=matchers.float(),
        widths=torch.full((len(keys),), own.width),
        residuals=torch.zeros(1, bench.profile.d_out),
        owners=torch.zeros(len(keys), dtype=torch.long),
        scales=(leverages.sqrt() / keys.double().norm(dim=1)).float(),
        decoys=decoys.rows,
    )


def mentions_of(subject: str) -> Iterator[tuple[str, str, str]]:
    """(kind, text, the subject as it is written there)."""
    for kind, templates in MENTIONS.items():
        for template in templates:
            yield kind, template.replace("{}", subject), subject
    for kind, change in CASES.items():
        written = change(subject)
        if written != subject:
            for template in CASED:
                yield kind, template.replace("{}", written), written


def look(bench: Workbench, subject: str, halves: Halves, counts: dict[str, Count]) -> int:
    """Count what one subject's guard fires on; the number of its keys and decoys."""
    guard = guard_of(bench, subject, halves.told)
    mentions = list(mentions_of(subject))
    keys = keys_in(bench.runner, guard.module, [(text, name) for _, text, name in mentions])
    for (kind, _, _), fires in zip(mentions, guard.nearest(keys.cpu()).fires, strict=True):
        counts.setdefault(kind, Count()).add(fires)
    sample = halves.untold.ordinary[halves.untold.without([subject])]
    counts.setdefault("ordinary", Count()).add(guard.nearest(sample.float()).fires)
    for name, crowd in (("told", halves.told), ("untold", halves.untold)):
        fires = guard.nearest(_others(crowd.known, subject)).fires
        counts.setdefault(name, Count()).add(fires)
    return len(guard.matchers) + len(guard.decoys)


def _others(known: SubjectKeys, subject: str) -> Float[Tensor, "row context d_in"]:
    rows = [i for i, name in enumerate(known.subjects) if name.lower() != subject.lower()]
    return known.keys[rows]


def figures_of(counts: Mapping[str, Count], rows: int, subjects: int) -> dict[str, float]:
    """Percent of mentions, firings per million of everything else."""
    kinds = [*MENTIONS, *CASES]
    usual = [counts[kind] for kind in MENTIONS if kind != "knows_plural"]
    found = {kind: 100 * counts[kind].share for kind in kinds if kind in counts}
    return {
        "knows": 100 * sum(c.fired for c in usual) / sum(c.of for c in usual),
        **found,
        "ordinary_per_million": 1e6 * counts["ordinary"].share,
        "told_subjects_per_million": 1e6 * counts["told"].share,
        "untold_subjects_per_million": 1e6 * counts["untold"].share,
        "rows_per_edit": rows / subjects,
    }


def measure(bench: Workbench, subjects: list[str], seed: int) -> dict[str, float]:
    """Look at every one of ``subjects``."""
    parts = halves(bench.crowd, seed)
    counts: dict[str, Count] = {}
    rows = sum(
        look(bench, subject, parts, counts)
        for subject in track(subjects, description="subjects", console=log)
    )
    return figures_of(counts, rows, len(subjects))


def main(
    subjects: Annotated[int, typer.Option(min=1, help="Known subjects looked at.")] = 200,
    seed: Annotated[int, typer.Option(help="Chooses subjects and halves.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Keeps second moments between runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure what guards know and what they take for their subject."""
    known = files.read_known_facts(None)
    real = list(dict.fromkeys(f.subject for f in known.facts if f.source != "invented"))
    chosen = random.Random(seed).sample(real, min(subjects, len(real)))
    with tempfile.TemporaryDirectory() as folder:
        try:
            bench = open_workbench(cache or Path(folder), known=known.subjects)
        except ErrataError as error:
            log.print(f"cannot measure this: {error}")
            raise typer.Exit(1) from error
        try:
            figures = measure(bench, chosen, seed)
        finally:
            bench.runner.close()
    settings = {"subjects": len(chosen), "seed": seed, "guard_width": bench.profile.guard_width}
    Document(benchmark="recognition", settings=settings, figures=figures).show(as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
