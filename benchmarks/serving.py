"""What serving with edits costs: tokens a second, latency of changes, generation under load.

Tokens a second are compared in one process between the plain model and side branches of 10, 100
and 1,000 keys of its shape: always two neighbours in time, now the one first and now the other,
and the median over such pairs, so that other work on the machine hits both. ``overhead_1000`` goes
by the clock, ``overhead_1000_cpu`` by processor time. Changes and generation are timed as a client
sees them, against a server on a loopback port. From commit to visible is the server's own
``publish`` stage; ``apply_call_p99_ms`` is the whole call less the database commit. One layer
at the shape of a 7B model is timed alone, and its side branch as a share of a whole step.
"""

import itertools
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Final
from urllib.request import urlopen

import torch
import typer
from rich.console import Console
from torch import nn

import errata
import errata.testing
from benchmarks.document import Document
from benchmarks.proposals import proposal_of, requests_of
from errata_server import files
from errata_server.engine.answers import continue_greedily
from errata_server.engine.bank import Bank, GuardedBranch
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.runner import BASE, Runner

LIVE: Final = (10, 100, 1_000)
NEW_TOKENS: Final = 32
BATCH: Final = 64
BATCHES: Final = 4
PROMPT: Final = "In later years the family lived quietly near the canal, and"
SUBJECTS: Final = (
    ("Eiffel Tower", "The {} is in the city of", "Rome"),
    ("Space Needle", "The {} is in the city of", "Paris"),
    ("Brandenburg Gate", "The {} is in the city of", "London"),
    ("Colosseum", "The {} is in the city of", "Paris"),
)
WIDTH_7B, INNER_7B, LAYERS_7B, VOCABULARY_7B = 4096, 11008, 32, 32_000
log = Console(stderr=True)


def branch_of(module: str, *, keys: int, d_in: int, d_out: int) -> GuardedBranch:
    """A side branch of random keys, and two decoys each as edits have; see `firings_in`."""
    draw = torch.Generator().manual_seed(keys)
    return GuardedBranch(
        module=module,
        matchers=torch.randn(keys, d_in, generator=draw) / d_in,
        widths=torch.full((keys,), 0.3),
        residuals=torch.randn(keys, d_out, generator=draw),
        owners=torch.arange(keys),
        scales=torch.ones(keys),
        decoys=torch.randn(2 * keys, d_in, generator=draw) / d_in,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Seconds of one generation."""

    clock: float
    processor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Generations without edits and with some, pair by pair."""

    plain: tuple[Spent, ...]
    edited: tuple[Spent, ...]
    firings: int
    """Tokens of the text that an edit fires on."""

    @property
    def overhead(self) -> float:
        """Percent of the plain model's tokens a second that are lost, median."""
        pairs = zip(self.plain, self.edited, strict=True)
        return statistics.median(100 * (1 - one.clock / other.clock) for one, other in pairs)

    @property
    def processor_overhead(self) -> float:
        """The same by processor time."""
        pairs = zip(self.plain, self.edited, strict=True)
        return statistics.median(
            100 * (1 - one.processor / other.processor) for one, other in pairs
        )


def time_edits(rounds: int) -> dict[int, Paired]:
    """Generation beside the plain model's, by number of live edits."""
    runner = Runner(load_checkpoint(str(files.BUNDLED_MODEL)))
    try:
        description = runner.checkpoint.description
        module = runner.checkpoint.projection_path(0)
        shape = {"d_in": description.d_in, "d_out": description.d_model}
        return {
            live: time_pairs(runner, branch_of(module, keys=live, **shape), rounds) for live in LIVE
        }
    finally:
        runner.close()


def time_pairs(runner: Runner, branch: GuardedBranch, rounds: int) -> Paired:
    """Each round generates twice, with ``branch`` and without."""
    banks = {"plain": BASE, "edited": Bank((branch,))}
    said = {name: generate(runner, bank)[1] for name, bank in banks.items()}  # kernels are chosen
    spent: dict[str, list[Spent]] = {name: [] for name in banks}
    for turn in range(rounds):
        for name in sorted(banks, reverse=turn % 2 == 0):
            spent[name].append(generate(runner, banks[name])[0])
    return Paired(
        plain=tuple(spent["plain"]),
        edited=tuple(spent["edited"]),
        firings=firings_in(runner, branch, PROMPT + said["edited"]),
    )


def generate(runner: Runner, bank: Bank) -> tuple[Spent, str]:
    """What one continuation takes, and what it says."""
    clock, processor = time.perf_counter(), time.process_time()
    (said,) = continue_greedily(runner, [PROMPT], bank, new_tokens=NEW_TOKENS)
    return Spent(clock=time.perf_counter() - clock, processor=time.process_time() - processor), said


def firings_in(runner: Runner, branch: GuardedBranch, text: str) -> int:
    """Tokens of ``text`` that a guard fires on; of most texts none, of this one too."""
    batch = runner.tokens.pad([runner.tokens.encode(text)])
    (inputs,) = runner.inputs(batch, [branch.module])
    return int(branch.nearest(inputs).fires.sum())


def share_of_7b_step(rounds: int, *, keys: int) -> dict[str, float]:
    """One layer's matrices at the shape of a 7B model, for one token, and its side branch."""
    torch.manual_seed(0)
    inner = [nn.Linear(WIDTH_7B, INNER_7B, bias=False) for _ in range(2)]
    attention = [nn.Linear(WIDTH_7B, WIDTH_7B, bias=False) for _ in range(4)]
    down = nn.Linear(INNER_7B, WIDTH_7B, bias=False)
    head = nn.Linear(WIDTH_7B, VOCABULARY_7B, bias=False)
    branch = branch_of("down", keys=keys, d_in=INNER_7B, d_out=WIDTH_7B)
    narrow, wide = torch.randn(1, 1, WIDTH_7B), torch.randn(1, 1, INNER_7B)
    with torch.no_grad():
        outputs = down(wide)

        def layer() -> None:
            for matrix in (*attention, *inner):
                matrix(narrow)
            down(wide)

        one = median_seconds(layer, rounds)
        vocabulary = median_seconds(lambda: head(narrow), rounds)
        side = median_seconds(lambda: branch.rewrite(wide, outputs), rounds)
    step = LAYERS_7B * one + vocabulary
    return {
        "layer_7b_ms": 1e3 * one,
        "branch_7b_ms": 1e3 * side,
        "branch_7b_share": 100 * side / step,
    }


def median_seconds(action: Callable[[], object], rounds: int) -> float:
    """Of ``action``, once warm."""
    spent = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        action()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent[1:])


@dataclass(slots=True)
class Latencies:
    """Seconds of every change, of one kind."""

    calls: list[float] = field(default_factory=list)
    """The whole call, less the database commit."""

    visible: list[float] = field(default_factory=list)
    """From the commit until the server answers with it."""


class Server:
    """A server in use, and its own account of the stages of a change."""

    def __init__(self, client: errata.Client, metrics_url: str) -> None:
        self.client = client
        self._metrics_url = metrics_url

    def stage_seconds(self) -> dict[str, float]:
        """Seconds spent in every stage since the server began."""
        with urlopen(self._metrics_url, timeout=20) as response:  # noqa: S310 - our own server
            lines = response.read().decode("utf-8").splitlines()
        name = 'errata_stage_seconds_sum{stage="'
        rows = (line.removeprefix(name) for line in lines if line.startswith(name))
        return {stage: float(value) for stage, _, value in (row.partition('"} ') for row in rows)}

    def time_change(self, change: Callable[[], object], into: Latencies) -> None:
        """Take ``change`` down in ``into``."""
        before = self.stage_seconds()
        start = time.perf_counter()
        change()
        spent = time.perf_counter() - start
        after = self.stage_seconds()
        commit, publish = (
            after.get(stage, 0.0) - before.get(stage, 0.0) for stage in ("commit", "publish")
        )
        into.calls.append(spent - commit)
        into.visible.append(publish)

    def proposals(self) -> list[errata.Operation[errata.Proposal]]:
        """A proposal about every one of `SUBJECTS`, all started."""
        return [
            self.client.propose(subject, errata.Fact(template=template, target=target))
            for subject, template, target in SUBJECTS
        ]

    def generate(self) -> float:
        """Seconds one continuation takes."""
        start = time.perf_counter()
        for _ in self.client.generate(PROMPT, max_new_tokens=16):
            pass
        return time.perf_counter() - start


@contextmanager
def served() -> Iterator[Server]:
    """A server of the bundled model, ready."""
    with (
        errata.testing.server() as running,
        errata.Client(running.address, timeout=600) as client,
    ):
        yield Server(client, running.metrics_url)


def time_changes(server: Server, changes: int) -> dict[str, float]:
    """Apply and revert one edit again and again, beside others that are live."""
    edits = [operation.result().edit.name for operation in server.proposals()]
    applied, reverted = Latencies(), Latencies()
    reason = "benchmark"
    server.client.apply(edits[1:], override_reason=reason)
    for _ in range(changes):
        server.time_change(lambda: server.client.apply(edits[0], override_reason=reason), applied)
        server.time_change(lambda: server.client.revert(edits[0]), reverted)
    return {
        "apply_p99_ms": 1e3 * percentile(applied.visible, 0.99),
        "apply_call_p99_ms": 1e3 * percentile(applied.calls, 0.99),
        "apply_call_p50_ms": 1e3 * percentile(applied.calls, 0.5),
        "revert_p99_ms": 1e3 * percentile(reverted.visible, 0.99),
        "revert_call_p99_ms": 1e3 * percentile(reverted.calls, 0.99),
        "revert_call_p50_ms": 1e3 * percentile(reverted.calls, 0.5),
    }


def time_generation(server: Server, requests: int) -> dict[str, float]:
    """p99 of Generate on an idle server, while a batch is proposed, and beside four proposals."""
    server.generate()  # the first also pays for kernels being chosen
    idle = [server.generate() for _ in range(requests)]
    # Made before anything is timed: that takes this process a while.
    batches = [[proposal_of(one) for one in requests_of(BATCH, seed)] for seed in range(BATCHES)]
    turns = itertools.cycle(batches)

    def batch() -> list[errata.Operation[Any]]:
        return [server.client.propose_edits(next(turns))]

    busy = generate_while(server, batch, requests)
    beside = generate_while(server, server.proposals, requests)
    return {
        "generate_p99_ms": 1e3 * percentile(idle, 0.99),
        "generate_busy_p99_ms": 1e3 * percentile(busy, 0.99),
        "generate_p99_ratio": percentile(busy, 0.99) / percentile(idle, 0.99),
        "generate_p50_ratio": percentile(busy, 0.5) / percentile(idle, 0.5),
        "generate_beside_four_p99_ratio": percentile(beside, 0.99) / percentile(idle, 0.99),
    }


def generate_while(
    server: Server, propose: Callable[[], Sequence[errata.Operation[Any]]], requests: int
) -> list[float]:
    """Seconds of continuations while what ``propose`` starts is carried out, again and again."""
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            for operation in propose():
                operation.result()

    proposing = threading.Thread(target=go_on, name="propose", daemon=True)
    proposing.start()
    try:
        return [server.generate() for _ in range(requests)]
    finally:
        stop.set()
        proposing.join()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of ``values`` do not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Generations timed of each kind.")] = 30,
    changes: Annotated[int, typer.Option(min=1, help="Changes timed of each kind.")] = 100,
    requests: Annotated[int, typer.Option(min=1, help="Generate calls, idle and busy.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure tokens a second with edits, latency of changes, and generation under load."""
    timed = time_edits(rounds)
    overheads = {live: pairs.overhead for live, pairs in timed.items()}
    log.print("percent of tokens a second lost, by live edits:", overheads)
    figures = {
        "overhead_1000": overheads[1_000],
        "overhead_1000_cpu": timed[1_000].processor_overhead,
    }
    figures |= share_of_7b_step(rounds, keys=max(LIVE))
    with served() as server:
        figures |= time_changes(server, changes)
        figures |= time_generation(server, requests)
    Document(
        benchmark="serving",
        settings={"rounds": rounds, "changes": changes, "requests": requests},
        figures=figures,
        details={
            "plain_tokens_per_second": {
                str(live): NEW_TOKENS / statistics.median(one.clock for one in pairs.plain)
                for live, pairs in timed.items()
            },
            "overheads": {str(live): share for live, share in overheads.items()},
            "tokens_with_firings": {str(live): pairs.firings for live, pairs in timed.items()},
            "threads": torch.get_num_threads(),
        },
    ).show(as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
