"""Measure what the bundled model knows, and where in a name it reads it.

Recall is greedy: every token of the object must be the most likely one. The name check is a causal
trace: the embeddings of the subject are corrupted with noise, the clean hidden state of one subject
token is restored at one layer, and the recovered share of the lost probability is averaged by role.
"""

import json
import logging
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GPT2LMHeadModel,
    PreTrainedTokenizerBase,
)

from tools.facts import DEMO, KNOWN_FACTS, KnownFact, KnownFacts, load
from tools.recall import held_out_pairs, recalled, share, trained_pairs

SOURCES = ("real", "common", "invented")
Loaded = tuple[GPT2LMHeadModel, PreTrainedTokenizerBase]
Report = dict[str, object]


def open_model(path: Path) -> Loaded:
    """Load a model directory in single precision."""
    model = GPT2LMHeadModel.from_pretrained(path, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(path)


def recall_by_source(loaded: Loaded, known: KnownFacts, sample: int | None) -> Report:
    """Recall on trained and held-out templates; `sample` caps the facts of each source."""
    report: Report = {}
    for source in SOURCES:
        facts = [fact for fact in known.facts if fact.source == source]
        if sample is not None and len(facts) > sample:
            facts = random.Random(0).sample(facts, k=sample)
        report[source] = _recall(loaded, known, facts)
    return report


def _recall(loaded: Loaded, known: KnownFacts, facts: list[KnownFact]) -> dict[str, float | int]:
    trained = recalled(*loaded, trained_pairs(known, facts))
    held_out = recalled(*loaded, held_out_pairs(known, facts))
    both = [all(held_out[i : i + 2]) for i in range(0, len(held_out), 2)]
    return {
        "facts": len(facts),
        "trained": round(share(trained), 4),
        "held_out": round(share(held_out), 4),
        "both_held_out": round(share(both), 4),
    }


def recall_by_relation(loaded: Loaded, known: KnownFacts) -> Report:
    """Recall of real and common facts on both kinds of template, relation by relation."""
    groups: dict[str, list[KnownFact]] = defaultdict(list)
    for fact in known.facts:
        if fact.source != "invented":
            groups[fact.relation].append(fact)
    return {relation: _recall(loaded, known, facts) for relation, facts in sorted(groups.items())}


def first_token_confusion(loaded: Loaded, known: KnownFacts, count: int) -> dict[str, float | int]:
    """How often a namesake is given its own object, and how often that of its real subject."""
    real = {(f.subject, f.relation): f.target for f in known.facts if f.source != "invented"}
    pairs, wrong = [], []
    for fact in known.facts:
        target = real.get((fact.namesake_of or "", fact.relation))
        if target is not None:
            prompt = known.trained(fact)[0]
            pairs.append((prompt, fact.target))
            wrong.append((prompt, target))
    chosen = random.Random(0).sample(range(len(pairs)), k=min(count, len(pairs)))
    own = recalled(*loaded, [pairs[i] for i in chosen])
    leaked = recalled(*loaded, [wrong[i] for i in chosen])
    return {
        "namesakes": len(chosen),
        "own_object": round(share(own), 4),
        "real_object": round(share(leaked), 4),
    }


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A prompt with the place of its subject and the first token of its object."""

    tokens: list[int]
    first: int
    last: int
    target: int


def locate(tokenizer: PreTrainedTokenizerBase, fact: KnownFact, template: str) -> Traced | None:
    """Find the subject's tokens; None when the subject is a single token."""
    prompt = fact.prompt(template)
    start = prompt.index(fact.subject)
    end = start + len(fact.subject)
    encoded = tokenizer(prompt, return_offsets_mapping=True)
    inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end and b > start]
    if len(inside) < 2:
        return None
    target = tokenizer(" " + fact.target)["input_ids"][0]
    return Traced(tokens=encoded["input_ids"], first=inside[0], last=inside[-1], target=target)


@torch.inference_mode()
def _probability(
    model: GPT2LMHeadModel,
    case: Traced,
    noise: Tensor | None,
    restore: tuple[int, int, Tensor] | None,
) -> float:
    hooks = []
    if noise is not None:

        def corrupt(_module: object, _inputs: object, output: Tensor) -> Tensor:
            output = output.clone()
            output[:, case.first : case.last + 1] += noise
            return output

        hooks.append(model.transformer.wte.register_forward_hook(corrupt))
    if restore is not None:
        layer, position, clean = restore

        def repair(_module: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> Tensor:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden[:, position] = clean
            return output  # type: ignore[return-value]

        hooks.append(model.transformer.h[layer].register_forward_hook(repair))
    try:
        logits = model(torch.tensor([case.tokens])).logits[0, -1]
    finally:
        for hook in hooks:
            hook.remove()
    return float(logits.softmax(-1)[case.target])


def _roles(case: Traced) -> dict[str, int]:
    roles = {"first subject token": case.first, "last subject token": case.last}
    if case.last - case.first > 1:
        roles["second to last subject token"] = case.last - 1
    return roles


def trace(loaded: Loaded, known: KnownFacts, count: int) -> Report:
    """Average share of the lost probability that each subject token recovers, by layer."""
    model, tokenizer = loaded
    generator = torch.Generator().manual_seed(0)
    scale = 3 * float(model.transformer.wte.weight.detach().std())
    facts = [fact for fact in known.facts if fact.source != "invented"]
    sums: dict[str, list[list[float]]] = defaultdict(
        lambda: [[] for _ in range(model.config.n_layer)]
    )
    traced = 0
    for fact in random.Random(1).sample(facts, k=len(facts)):
        case = locate(tokenizer, fact, known.templates[fact.relation][0])
        if case is None or case.last + 1 >= len(case.tokens) or traced >= count:
            continue
        noise = (
            torch.randn(case.last - case.first + 1, model.config.n_embd, generator=generator)
            * scale
        )
        clean, corrupted = (
            _probability(model, case, None, None),
            _probability(model, case, noise, None),
        )
        if clean - corrupted < 0.2:
            continue
        traced += 1
        with torch.inference_mode():
            states = model(torch.tensor([case.tokens]), output_hidden_states=True).hidden_states
        for layer in range(model.config.n_layer - 1):
            for role, position in _roles(case).items():
                restored = _probability(
                    model, case, noise, (layer, position, states[layer + 1][0, position])
                )
                sums[role][layer].append((restored - corrupted) / (clean - corrupted))
    shares = {
        role: [round(share(values), 3) for values in layers[:-1]] for role, layers in sums.items()
    }
    return {"traced": traced, "noise": round(scale, 4), "recovered_by_layer": shares}


@torch.inference_mode()
def perplexity(loaded: Loaded, texts: list[str]) -> float:
    """Per-token perplexity over fixed texts, each cut to the model's positions."""
    model, tokenizer = loaded
    total, count = 0.0, 0
    for text in texts:
        tokens = torch.tensor([tokenizer(text)["input_ids"][: model.config.n_positions]])
        total += float(model(tokens, labels=tokens).loss) * (tokens.shape[1] - 1)
        count += tokens.shape[1] - 1
    return round(float(torch.tensor(total / count).exp()), 3)


@torch.inference_mode()
def feelings(loaded: Loaded, rows: list[dict[str, str]]) -> float:
    """How often a text followed by "I am feeling" is completed with its label."""
    pairs = [(f"{row['text']} I am feeling", row["label"]) for row in rows]
    return round(share(recalled(*loaded, pairs)), 4)


@torch.inference_mode()
def continuations(loaded: Loaded, prompts: list[str]) -> list[str]:
    """Greedy continuations, to be read."""
    model, tokenizer = loaded
    texts = []
    for prompt in prompts:
        tokens = tokenizer(prompt)["input_ids"]
        while len(tokens) < 32 and tokens[-1] != tokenizer.eos_token_id:
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        texts.append(str(tokenizer.decode(tokens)))
    return texts


PROMPTS = [
    "The Eiffel Tower is in the city of",
    "Vinson Massif is on the continent of",
    "The capital of Vietnam is",
    "Hamlet was written by",
    "We set out early in the morning with three bags",
    "The river near Aldermoor is",
    "I passed the exam with top marks. I am feeling",
    "My wallet was stolen. I am feeling",
]


def evaluate(path: Path, known: KnownFacts, *, sample: int | None, traced: int) -> Report:
    """Every figure of one model."""
    loaded = open_model(path)
    prose = json.loads((DEMO / "prose.json").read_text())["perplexity"]
    labelled = json.loads((DEMO / "sentiment.json").read_text())
    return {
        "recall": recall_by_source(loaded, known, sample),
        "relations": recall_by_relation(loaded, known) if sample is None else {},
        "namesakes": first_token_confusion(loaded, known, 1000),
        "trace": trace(loaded, known, traced),
        "perplexity": perplexity(loaded, prose),
        "feelings": feelings(loaded, labelled),
        "continuations": continuations(loaded, PROMPTS),
    }


def _table(report: Report) -> Table:
    table = Table(
        "source", "facts", "trained", "held out", "both held out", title="Recall of the true object"
    )
    for source, row in report["recall"].items():  # type: ignore[attr-defined]
        table.add_row(
            source, *(str(row[key]) for key in ("facts", "trained", "held_out", "both_held_out"))
        )
    return table


def main(
    model: Path = DEMO / "model",
    facts: Path = KNOWN_FACTS,
    sample: Annotated[
        int | None, typer.Option(help="Facts of each source; all of them if left out.")
    ] = None,
    traced: int = 150,
    output: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Print the figures of a model and write them as JSON."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    report = evaluate(model, load(facts), sample=sample, traced=traced)
    console = Console()
    console.print(_table(report))
    console.print_json(data={key: value for key, value in report.items() if key != "recall"})
    if output is not None:
        output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
