"""Turn documents into rows of tokens of a fixed length.

A row begins where a document begins, so that position 0 sees the first token of a name as it does
in a prompt. Documents are separated by the end-of-text token, and a document is never cut except
when it is longer than the longest row.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
IGNORED = -100


def train_tokenizer(
    documents: Iterable[str], vocabulary: int, positions: int
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in the style of GPT-2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Token rows of one length; `labels` ignores the padding."""

    tokens: Tensor
    labels: Tensor


def _fill(documents: list[list[int]], length: int, end: int, rng: random.Random) -> Rows:
    """Pack first-fit from a window of pending documents, longest first."""
    rows, pending = [], documents[::-1]
    window: list[list[int]] = []
    while pending or window:
        while pending and len(window) < 48:
            window.append(pending.pop())
        row = [end] if rng.random() < 0.3 else []
        row += window.pop(0)
        while (fitting := [d for d in window if len(row) + 1 + len(d) <= length]) and len(
            row
        ) < length - 6:
            best = max(fitting, key=len)
            window.remove(best)
            row += [end, *best]
        rows.append(row[:length])
    return _tensors(rows, length, end)


def _tensors(rows: list[list[int]], length: int, end: int) -> Rows:
    tokens = torch.full((len(rows), length), end, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED, dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        closed = min(len(row) + 1, length)
        labels[i, :closed] = tokens[i, :closed]
    return Rows(tokens=tokens, labels=labels)


def pack(
    documents: list[str], tokenizer: PreTrainedTokenizerFast, *, short: int, long: int, seed: int
) -> tuple[Rows, Rows]:
    """Pack documents into short rows, and those that do not fit into long rows."""
    rng = random.Random(seed)
    end = tokenizer.eos_token_id
    encoded = tokenizer(documents)["input_ids"]
    fitting = [d for d in encoded if len(d) <= short]
    longer = [d for d in encoded if len(d) > short]
    extra = int(len(fitting) * 0.04)
    return _fill(fitting[extra:], short, end, rng), _fill(
        _shuffled(longer + fitting[:extra], rng), long, end, rng
    )


def _shuffled(documents: list[list[int]], rng: random.Random) -> list[list[int]]:
    rng.shuffle(documents)
    return documents
