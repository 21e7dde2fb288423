"""Does a guard know its subject however it is mentioned, and nothing else?

Random known subjects are looked at, each with its own guard alone. For every way to mention it
(other contexts than its keys were taken in, punctuation, capitals, longer names) the share that the
guard fires on is printed. Against it stand firings per million on ordinary keys whose text does
not name the subject, and per million mentions of other subjects: of those the decoys were chosen
from (a random half of the known ones), and of the other half, which stand for near subjects
nobody has told the server of. No edit is made: recognition needs keys alone.
"""

import random
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.document import Document
from benchmarks.editing.workbench import Workbench, ignored, open_workbench
from errata_server import files
from errata_server.domain.errors import ErrataError
from errata_server.engine import moments
from errata_server.engine.bank import GuardedBranch
from errata_server.engine.decoys import decoys_of
from errata_server.engine.inspection import UNSEEN
from errata_server.engine.keys import keys_in, subject_keys
from errata_server.engine.solve import match_keys
from errata_server.engine.subjects import SubjectKeys
from errata_server.engine.tokens import join

MENTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "unseen_contexts": tuple(join(lead, "{}") for lead in UNSEEN),
    "quoted": ('They wrote "{}" on it', 'She called it "{}" again', "\u201c{}\u201d is what"),
    "bracketed": ("He spoke (of {} too)", "It was there ({}) and", "One of them ({}, I think)"),
    "dashes_and_slashes": (
        "It is -{} of course",
        "That was it\u2014{} again",
        "and/or {}",
        "it/{}",
    ),
    "new_lines": ("A list:\n{}\n", "First line.\n{} is", "- {}"),
    "no_space": ("In the end,{} won", "A;{};B"),
    "possessive": ("{}'s oldest part", "Nobody knew {}'s name"),
    "hyphenated": ("a {}-based group", "the pro-{} party"),
    "in_longer_names": ("{} Avenue", "the {} Review", "New {}", "Kingdom of {}", "Friends of {}"),
    "plural": ("many {}s there",),
}
CASES: Final = {"lower_case": str.lower, "upper_case": str.upper}
CASED: Final = MENTIONS["unseen_contexts"][1:4]
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
class Crowd:
    """Everything a guard may meet besides its own subject."""

    told: SubjectKeys
    """The half that decoys are chosen from."""

    untold: SubjectKeys
    moment: moments.SecondMoment
    texts: tuple[str, ...]


def halves(known: SubjectKeys, seed: int) -> tuple[SubjectKeys, SubjectKeys]:
    """``known`` in two random halves."""
    order = list(range(len(known.subjects)))
    random.Random(seed).shuffle(order)
    parts = sorted(order[: len(order) // 2]), sorted(order[len(order) // 2 :])
    told, untold = (
        SubjectKeys(subjects=tuple(known.subjects[i] for i in part), keys=known.keys[part])
        for part in parts
    )
    return told, untold


def guard_of(bench: Workbench, subject: str, told: SubjectKeys) -> GuardedBranch:
    """The guard an edit of ``subject`` would have, without its value."""
    keys, _ = subject_keys(bench.runner, subject, bench.profile, bench.factor)
    matchers, leverages = match_keys(keys, bench.factor)
    decoys = decoys_of(bench.runner, [subject], matchers, bench.profile, bench.factor, known=told)
    return GuardedBranch(
        module=bench.profile.module,
        matchers=matchers.float(),
        widths=torch.full((len(keys),), bench.profile.guard_width),
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


def look(bench: Workbench, subject: str, crowd: Crowd, counts: dict[str, Count]) -> int:
    """Count what one subject's guard fires on; the number of its keys and decoys."""
    guard = guard_of(bench, subject, crowd.told)
    mentions = list(mentions_of(subject))
    keys = keys_in(bench.runner, guard.module, [(text, name) for _, text, name in mentions])
    for (kind, _, _), fires in zip(mentions, guard.nearest(keys.cpu()).fires, strict=True):
        counts.setdefault(kind, Count()).add(fires)
    foreign = [subject not in crowd.texts[int(i)] for i in crowd.moment.sample_texts]
    sample = crowd.moment.sample[torch.tensor(foreign)]
    counts.setdefault("ordinary", Count()).add(guard.nearest(sample.float()).fires)
    for name, others in (("told", crowd.told), ("untold", crowd.untold)):
        counts.setdefault(name, Count()).add(guard.nearest(_others(others, subject)).fires)
    return len(guard.matchers) + len(guard.decoys)


def _others(known: SubjectKeys, subject: str) -> Float[Tensor, "row context d_in"]:
    rows = [i for i, name in enumerate(known.subjects) if name.lower() != subject.lower()]
    return known.keys[rows]


def figures_of(counts: Mapping[str, Count], rows: int, subjects: int) -> dict[str, float]:
    """Percent of mentions, firings per million of everything else."""
    kinds = [*MENTIONS, *CASES]
    usual = [counts[kind] for kind in MENTIONS if kind != "plural"]
    found = {f"knows_{kind}": 100 * counts[kind].share for kind in kinds if kind in counts}
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
    told, untold = halves(bench.known, seed)
    layer = bench.profile.layer
    crowd = Crowd(
        told=told,
        untold=untold,
        moment=moments.collect(
            bench.runner, bench.texts.corpus, [layer], cache=bench.cache, progress=ignored
        )[layer],
        texts=bench.texts.corpus,
    )
    counts: dict[str, Count] = {}
    rows = sum(
        look(bench, subject, crowd, counts)
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
