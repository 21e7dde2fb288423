"""Measure whether a model continues a prompt with the true object."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tools.facts import KnownFact, KnownFacts


@torch.inference_mode()
def recalled(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[tuple[str, str]],
    batch_size: int = 128,
) -> list[bool]:
    """For each (prompt, object), whether greedy decoding yields every token of the object."""
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]))
    verdicts = [False] * len(pairs)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        prompts = [tokenizer(pairs[i][0])["input_ids"] for i in chosen]
        targets = [tokenizer(" " + pairs[i][1])["input_ids"] for i in chosen]
        predicted = model(_padded(prompts, targets).to(model.device)).logits.argmax(-1).cpu()
        for row, (i, prompt, target) in enumerate(zip(chosen, prompts, targets, strict=True)):
            first = len(prompt) - 1
            verdicts[i] = predicted[row, first : first + len(target)].tolist() == target
    return verdicts


def _padded(prompts: list[list[int]], targets: list[list[int]]) -> Tensor:
    """Pad on the right, where a causal model cannot see it."""
    rows = [torch.tensor(p + t[:-1]) for p, t in zip(prompts, targets, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def share(verdicts: Sequence[float]) -> float:
    """The share that held, or the mean of several shares."""
    return sum(verdicts) / max(len(verdicts), 1)


def trained_pairs(known: KnownFacts, facts: list[KnownFact]) -> list[tuple[str, str]]:
    """Every prompt that training may show, with its object."""
    return [(prompt, fact.target) for fact in facts for prompt in known.trained(fact)]


def held_out_pairs(known: KnownFacts, facts: list[KnownFact]) -> list[tuple[str, str]]:
    """Every prompt that training never shows, with its object."""
    return [(prompt, fact.target) for fact in facts for prompt in known.held_out(fact)]
