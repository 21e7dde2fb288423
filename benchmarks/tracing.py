"""How fast the exact causal trace is, against the published protocol in the same process.

A GPT-2-shaped model of random weights (GPT-2 small's shape by default), all three kinds, ten
samples, the same noise. At 12 tokens every whole forward pass of the published protocol is run.
At 60 tokens a sample of them is, evenly over the cells, and the protocol's cost is their median
times its 3 (T L + 2) passes, since every pass is the same work; ``--passes 0`` runs them all.
``max_difference`` is over every cell that both computed.
"""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import torch
import typer
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.document import Document
from benchmarks.published_trace import PublishedTrace
from errata_server.domain.ids import Digest
from errata_server.domain.operations import Progress
from errata_server.domain.traces import CausalTrace, TraceRequest
from errata_server.engine.architecture import architecture_of
from errata_server.engine.checkpoint import Checkpoint
from errata_server.engine.locate.causal import Tracer
from errata_server.engine.locate.corruption import Sigma
from errata_server.engine.runner import BASE, Runner

NOWHERE: Final = Digest("0" * 64)
SUBJECT: Final = 3
"""Tokens of the subject."""

SPREAD: Final = 0.1
"""Of the random weights: wide enough that answers depend on their prompt."""

WORDS: Final = 50_257
LATE: Final = 40
TABLE: Final = ((6, 12, 24), (12, 24, 48, 96))
"""Layers and prompt lengths of the table of cost."""

log = Console(stderr=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One prompt, both ways."""

    seconds: float
    """Of one trace, the median of the runs."""

    published_seconds: float
    passes: int
    """Whole forward passes that were run, out of all the protocol asks for."""

    all_passes: int
    difference: float
    peak_mib: float

    @property
    def speedup(self) -> float:
        """How many times faster."""
        return self.published_seconds / self.seconds


@dataclass(slots=True)
class Memory:
    """The most this process grew by, in MiB, looked at every few milliseconds."""

    peak: float = 0.0
    _done: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch for as long as the block takes."""
        start = resident()

        def look() -> None:
            while not self._done.wait(0.005):
                self.peak = max(self.peak, resident() - start)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()


def resident() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * 4096 / 2**20


def random_model(*, layers: int, width: int, heads: int, device: str) -> Runner:
    """A GPT-2 of random weights whose words are ``w0``, ``w1`` and so on, a token each."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=layers, n_embd=width, n_head=heads, vocab_size=WORDS, initializer_range=SPREAD
    )
    model = GPT2LMHeadModel(config).eval().requires_grad_(requires_grad=False).to(device)
    backend = Tokenizer(models.WordLevel({f"w{n}": n for n in range(WORDS)}, unk_token="w0"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="w0")  # noqa: S106 - a word
    return Runner(
        Checkpoint(
            model=model,
            tokenizer=tokenizer,
            architecture=architecture_of("gpt2"),
            digest=NOWHERE,
            source="random",
            memory_digest=NOWHERE,
        )
    )


def request_of(tokens: int, first: int, memory_mib: int) -> TraceRequest:
    """A prompt of ``tokens`` words whose subject begins at word ``first``."""
    chosen = np.random.default_rng(tokens).choice(np.arange(1, WORDS), tokens, replace=False)
    words = [f"w{number}" for number in chosen]
    return TraceRequest(
        prompt=" ".join(words),
        subject=" ".join(words[first : first + SUBJECT]),
        memory_mib=memory_mib,
    )


def compare(runner: Runner, request: TraceRequest, *, runs: int, passes: int) -> Comparison:
    """Trace ``request`` ``runs`` times, and take ``passes`` of the protocol's (all, if 0)."""
    memory = Memory()
    with memory.watched():
        seconds, trace = timed(runner, request, runs)
    oracle = published(runner, trace)
    sites = list(product(range(len(trace.grids)), range(len(trace.tokens)), range(trace.layers)))
    every = len(sites) + 2 * len(trace.grids)
    if passes:
        # Evenly over the cells, the first and the last included.
        sites = [sites[round(at)] for at in np.linspace(0, len(sites) - 1, passes)]
    oracle.base()  # warm
    spent, differences = [], []
    for kind, token, layer in sites:
        grid = trace.grids[kind]
        start = time.perf_counter()
        scores = oracle.cell(grid.kind.value, token, layer)
        spent.append(time.perf_counter() - start)
        differences.append(abs(float(scores.double().mean()) - grid.scores[token][layer]))
    whole = statistics.median(spent) * every if passes else sum(spent) * every / len(spent)
    found = Comparison(
        seconds=seconds,
        published_seconds=whole,
        passes=len(sites),
        all_passes=every,
        difference=max(differences),
        peak_mib=memory.peak,
    )
    log.print(
        f"{len(trace.tokens)} tokens: {found.seconds:.2f} s against {whole:.1f} s "
        f"({found.passes} of {every} passes run), {found.speedup:.1f}x, max difference "
        f"{found.difference:.1e}, clean {trace.clean:.3f}, corrupted {trace.corrupted:.3f}"
    )
    return found


def timed(runner: Runner, request: TraceRequest, runs: int) -> tuple[float, CausalTrace]:
    """(median seconds, the trace)."""
    tracer = Tracer(runner=runner, bank=BASE, sigma=Sigma(value=SPREAD, source="random"))
    spent = []
    for _ in range(runs):
        start = time.perf_counter()
        trace = tracer.trace(request, progress=_ignored)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent), trace


def published(runner: Runner, trace: CausalTrace) -> PublishedTrace:
    """The published protocol on the same prompt with the same noise."""
    positions = [index for index, token in enumerate(trace.tokens) if token.corrupted]
    draw = np.random.RandomState(trace.corruption.seed)
    noise = draw.randn(trace.corruption.samples, len(positions), runner.model.config.n_embd)
    return PublishedTrace(
        model=runner.checkpoint.model,
        family="gpt2",
        layers=trace.layers,
        ids=runner.tokens.encode(trace.prompt),
        positions=positions,
        noise=torch.from_numpy(noise * trace.noise).to(runner.device),
        answer=runner.tokens.target(trace.answer),
        window=trace.window,
    )


def cost_table(*, device: str, memory_mib: int) -> Document:
    """Seconds and peak memory of one trace, by layers and prompt length, subject first."""
    width, heads, rows = 256, 4, []
    depths, lengths = TABLE
    for layers in depths:
        runner = random_model(layers=layers, width=width, heads=heads, device=device)
        try:
            for tokens in lengths:
                memory = Memory()
                with memory.watched():
                    seconds, _ = timed(runner, request_of(tokens, 0, memory_mib), 1)
                row = {"layers": layers, "tokens": tokens, "seconds": seconds}
                log.print(row | {"peak_mib": memory.peak})
                rows.append(row | {"peak_mib": memory.peak})
        finally:
            runner.close()
    return Document(
        benchmark="tracing cost",
        settings={"width": width, "memory_mib": memory_mib, "device": device},
        figures={
            f"seconds_{row['layers']}_layers_{row['tokens']}_tokens": row["seconds"] for row in rows
        },
        details={"table": rows},
    )


def _ignored(_: Progress) -> None:
    """Progress within one trace."""


def main(
    layers: Annotated[int, typer.Option(min=1)] = 12,
    width: Annotated[int, typer.Option(min=8)] = 768,
    heads: Annotated[int, typer.Option(min=1)] = 12,
    runs: Annotated[int, typer.Option(min=1, help="Traces of each prompt.")] = 3,
    passes: Annotated[
        int, typer.Option(min=0, help="Published passes run at 60 tokens; 0 runs them all.")
    ] = 36,
    memory_mib: Annotated[int, typer.Option(min=1, help="Most memory of the cells.")] = 1024,
    device: Annotated[str, typer.Option(help="A torch device.")] = "cpu",
    table: Annotated[
        bool, typer.Option("--table", help="Cost by layers and prompt length instead, 256 wide.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure the exact causal trace against the published protocol."""
    if table:
        cost_table(device=device, memory_mib=memory_mib).show(as_json=as_json)
        return
    runner = random_model(layers=layers, width=width, heads=heads, device=device)
    try:
        # The first trace in a process also pays for its kernels being chosen.
        timed(runner, request_of(6, 0, memory_mib), 1)
        short = compare(runner, request_of(12, 0, memory_mib), runs=runs, passes=0)
        late = compare(runner, request_of(60, LATE, memory_mib), runs=runs, passes=passes)
        first = compare(runner, request_of(60, 0, memory_mib), runs=1, passes=passes)
    finally:
        runner.close()
    cases = {"12": short, "60_first": first, "60_late": late}
    Document(
        benchmark="tracing",
        settings={
            "layers": layers,
            "width": width,
            "runs": runs,
            "passes": passes,
            "memory_mib": memory_mib,
            "device": device,
        },
        figures={
            "speedup_12": short.speedup,
            "speedup_60_first": first.speedup,
            "speedup_60_late": late.speedup,
            "max_difference": max(case.difference for case in cases.values()),
            "peak_mib": max(case.peak_mib for case in cases.values()),
            **{f"seconds_{name}": case.seconds for name, case in cases.items()},
            **{f"published_seconds_{name}": case.published_seconds for name, case in cases.items()},
        },
        details={
            "passes": {name: f"{case.passes} of {case.all_passes}" for name, case in cases.items()},
        },
    ).show(as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
