"""The command: one suite, a seed, and how much of it.

::

    python -m benchmarks.reliability --suite kills --seed 1 --json
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Final

import typer

from benchmarks.document import Document
from benchmarks.reliability import faults, kills, races, replicas, tampering, volume
from benchmarks.reliability.databases import Kind
from benchmarks.reliability.options import Options


class Suite(StrEnum):
    """What can be run."""

    KILLS = "kills"
    FAULTS = "faults"
    RACES = "races"
    REPLICAS = "replicas"
    TAMPERING = "tampering"
    VOLUME = "volume"


SUITES: Final[dict[Suite, tuple[Callable[[Options], Document], int]]] = {
    Suite.KILLS: (kills.run, kills.ROUNDS),
    Suite.FAULTS: (faults.run, faults.ROUNDS),
    Suite.RACES: (races.run, races.ROUNDS),
    Suite.REPLICAS: (replicas.run, replicas.ROUNDS),
    Suite.TAMPERING: (tampering.run, tampering.ROUNDS),
    Suite.VOLUME: (volume.run, volume.ROUNDS),
}
"""What runs a suite, and the rounds that make its claim."""


def main(
    suite: Annotated[Suite, typer.Option(help="Which promise to try.")],
    seed: Annotated[int, typer.Option(help="Chooses what happens and when.")] = 0,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How much; what makes the suite's claim if not given.")
    ] = None,
    database: Annotated[
        list[Kind] | None, typer.Option(help="May be given twice; both if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Break things in one way, and count the promises that did not hold."""
    run, enough = SUITES[suite]
    options = Options(
        seed=seed, kinds=tuple(database or Kind), rounds=enough if rounds is None else rounds
    )
    run(options).show(as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
