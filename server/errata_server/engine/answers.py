"""Asking the model: greedy answers in batches, streamed generation, scores, divergence.

Generation is transformers' own loop; each of its forward passes is one step of the lane.
"""

import hashlib
import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from errata_server.domain.generation import (
    ContinuationScore,
    GeneratedChunk,
    GenerationOptions,
    PromptScore,
)
from errata_server.domain.ids import Digest
from errata_server.engine.bank import Bank
from errata_server.engine.runner import Runner

Item = TypeVar("Item")

ROWS: Final = 128
"""Prompts in one batch."""

TOKENS: Final = 2_048
"""Tokens of one step, padding too: what whoever waits for the model waits for."""

CONTINUED: Final = 8_192
"""Tokens of prompts that are continued together, and of what follows them: their keys and values
are held in memory. The prompts themselves go through the model in several steps."""

SCORED_TOKENS: Final = 256
"""The same where every token meets the vocabulary, which takes longer."""


MANY: Final = 8
"""Rows from which on a step with half of them is that much cheaper."""

NO_TOKEN: Final = -1
"""Stands for the end of text where a tokenizer has none."""


def in_batches(
    items: Sequence[Item], size: Callable[[Item], int], *, tokens: int | None = None
) -> Iterator[Sequence[Item]]:
    """``items`` in order, as many together as `ROWS` and ``tokens`` let, and one at least.

    Args:
        items: What has one row each.
        size: The tokens of an item's row.
        tokens: Tokens of a batch, padding too; those of one step where not given.
    """
    most = TOKENS if tokens is None else tokens
    start, longest = 0, 0
    for end, item in enumerate(items):
        longest = max(longest, size(item))
        if end > start and ((end - start + 1) * longest > most or end - start == ROWS):
            yield items[start:end]
            start, longest = end, size(item)
    if start < len(items):
        yield items[start:]


class GumbelSampling(LogitsProcessor):
    """Turns the greedy choice into a seeded sample (Gumbel-max), private to one request.

    transformers samples from torch's global generator, which requests would share. Every row
    has the noise it would have alone.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - theirs
        """``scores`` with Gumbel noise."""
        uniform = torch.rand(scores.shape[-1], generator=self._generator).clamp(1e-9, 1 - 1e-7)
        noise = -torch.log(-torch.log(uniform))
        return scores.float() + noise.to(scores.device)


def _processors(options: GenerationOptions) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if options.temperature > 0:
        processors.append(TemperatureLogitsWarper(options.temperature))
        if options.top_k:
            processors.append(TopKLogitsWarper(options.top_k))
        processors.append(GumbelSampling(options.seed))
    return processors


def _configuration(runner: Runner, new_tokens: int, *, step: int | None = None) -> GenerationConfig:
    """Greedy, ``new_tokens`` at most; ``step`` tokens of a prompt in one pass, all if not given."""
    tokenizer = runner.checkpoint.tokenizer
    return GenerationConfig(
        prefill_chunk_size=step,
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def continue_greedily(
    runner: Runner,
    prompts: Sequence[str],
    bank: Bank,
    *,
    new_tokens: int,
    options: GenerationOptions | None = None,
) -> list[str]:
    """What the model says after each prompt, ``new_tokens`` at most; greedy by default.

    Raises:
        PromptTooLongError: a prompt does not fit the context.
    """
    options = options or GenerationOptions()
    said: list[tuple[int, ...]] = []
    fitting = [runner.tokens.fit(prompt, room=new_tokens) for prompt in prompts]
    for rows in in_batches(fitting, lambda row: len(row) + new_tokens, tokens=CONTINUED):
        rooms = [new_tokens] * len(rows)
        said += continue_rows(runner, rows, bank, rooms=rooms, options=options)
    return [runner.tokens.decode(ids) for ids in said]


def continue_rows(
    runner: Runner,
    rows: Sequence[Sequence[int]],
    bank: Bank,
    *,
    rooms: Sequence[int],
    options: GenerationOptions,
) -> list[tuple[int, ...]]:
    """The tokens that follow each of ``rows`` in one batch, up to the end of text or of its room.

    No step is of more than `TOKENS` tokens: a prompt of many goes through the model in parts.

    Once half of the rows have ended, the loop goes on with the others alone: the longest answer
    of many is several times as long as most.

    Args:
        rooms: How many tokens may follow each, 1 at least; the context has room for them.
    """
    batch, tokenizer = runner.tokens.pad(rows), runner.checkpoint.tokenizer
    ids, mask, cache = batch.ids, batch.mask, None
    end = NO_TOKEN if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    processors = _processors(options)  # one noise through all of it
    said: list[tuple[int, ...]] = [()] * len(rows)
    left, width = list(range(len(rows))), ids.shape[1]
    ends = [runner.tokens.context - len(row) for row in rows]
    step = max(1, TOKENS // len(rows))
    while left:
        most = [rooms[row] for row in left]
        # A row that is full stays until half of them are, but never beyond the context.
        last = min(max(most), *(ends[row] for row in left))
        with runner.serving(bank):
            output = runner.model.generate(
                ids,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=_configuration(
                    runner, width + last - ids.shape[1], step=step if step < width else None
                ),
                logits_processor=processors,
                stopping_criteria=StoppingCriteriaList([_Halved(start=width, end=end, most=most)]),
                return_dict_in_generate=True,
            )
        found = output.sequences[:, width:]
        for row, tokens in zip(left, found.tolist(), strict=True):
            ended = tokens.index(end) + 1 if end in tokens else len(tokens)
            said[row] = tuple(tokens[: min(ended, rooms[row])])
        short = torch.tensor(most, device=ids.device) > found.shape[1]
        going = ((found != end).all(dim=1) & short).nonzero()[:, 0]
        if not len(going):
            break
        ids, cache = output.sequences[going], output.past_key_values
        cache.batch_select_indices(going)
        mask = functional.pad(mask[going], (0, ids.shape[1] - mask.shape[1]), value=1)
        left = [left[place] for place in going.tolist()]
    return said


class _Halved(StoppingCriteria):
    """Ends the loop once no more than half of many rows go on."""

    def __init__(self, *, start: int, end: int, most: Sequence[int]) -> None:
        self._start, self._end, self._most = start, end, torch.tensor(most)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # noqa: ANN401, ARG002
        """Whether each row is to stop."""
        found = input_ids[:, self._start :]
        over = (found == self._end).any(dim=1) | (self._most <= found.shape[1]).to(found.device)
        halved = len(over) >= MANY and 2 * int(over.sum()) >= len(over)
        return over | halved


@dataclass(slots=True)
class _Pieces(BaseStreamer):
    """Hands over each token as transformers' loop makes it."""

    queue: "queue.SimpleQueue[int | BaseException | None]" = field(
        default_factory=queue.SimpleQueue
    )
    prompt_seen: bool = False

    def put(self, value: Int[Tensor, "..."]) -> None:
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        for token in value.reshape(-1).tolist():
            self.queue.put(token)

    def end(self) -> None:
        self.queue.put(None)


class _Closed(StoppingCriteria):
    """Ends the loop once the reader has gone."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:  # noqa: ANN401, ARG002
        """Whether each row is to stop."""
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)


def stream(
    runner: Runner, prompt: str, options: GenerationOptions, bank: Bank
) -> Iterator[GeneratedChunk]:
    """Continue ``prompt``, a chunk a token, all from one bank; closing the iterator stops it.

    A chunk holds whole characters only: the bytes of a character split over tokens wait for
    its last one.

    Raises:
        PromptTooLongError: prompt and continuation do not fit the context.
    """
    ids = runner.tokens.fit(prompt, room=options.max_new_tokens)
    pieces, closed = _Pieces(), _Closed()
    worker = threading.Thread(
        target=_loop,
        args=(runner, ids, options, bank, pieces, closed),
        name="generate",
        daemon=True,
    )
    worker.start()
    try:
        yield from _chunks(runner, options, pieces)
    finally:
        closed.event.set()


def _loop(
    runner: Runner,
    ids: list[int],
    options: GenerationOptions,
    bank: Bank,
    pieces: _Pieces,
    closed: _Closed,
) -> None:
    batch = runner.tokens.pad([ids])
    try:
        with runner.serving(bank), runner.urgently():
            runner.model.generate(
                batch.ids,
                attention_mask=batch.mask,
                generation_config=_configuration(runner, options.max_new_tokens),
                logits_processor=_processors(options),
                stopping_criteria=StoppingCriteriaList([closed]),
                streamer=pieces,
            )
    except BaseException as error:  # noqa: BLE001 - handed to the reader, which raises it
        pieces.queue.put(error)


def _chunks(
    runner: Runner, options: GenerationOptions, pieces: _Pieces
) -> Iterator[GeneratedChunk]:
    ended_by_model = runner.checkpoint.tokenizer.eos_token_id
    tokens: list[int] = []
    sent = ""
    while (piece := pieces.queue.get()) is not None:
        if isinstance(piece, BaseException):
            raise piece
        if piece == ended_by_model:
            rest = runner.tokens.decode(tokens)[len(sent) :]
            yield GeneratedChunk(text=rest, tokens=len(tokens), finish_reason="stop")
            return
        tokens.append(piece)
        text = runner.tokens.decode(tokens)
        cut = _stop_at(text, options.stop)
        if cut is not None:
            rest = text[len(sent) : cut]
            yield GeneratedChunk(text=rest, tokens=len(tokens), finish_reason="stop")
            return
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield GeneratedChunk(text=text[len(sent) :], tokens=len(tokens))
            sent = text
    rest = runner.tokens.decode(tokens)[len(sent) :]
    yield GeneratedChunk(text=rest, tokens=len(tokens), finish_reason="length")


def _stop_at(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop text ends, if one has come."""
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    return min(ends) if ends else None


def score(runner: Runner, prompt: str, continuations: Sequence[str], bank: Bank) -> PromptScore:
    """Log-probabilities of ``continuations``, each exactly as written after ``prompt``.

    The logits' digest is over the prompt alone in a batch of one, so that its bits can be
    compared between revisions.

    Raises:
        PromptTooLongError: prompt and continuation do not fit the context.
    """
    prompt_ids = runner.tokens.fit(prompt)
    with runner.urgently():
        logits = runner.logits(runner.tokens.pad([prompt_ids]), bank)[0]
        scores = tuple(
            _score_one(runner, prompt_ids, continuation, bank) for continuation in continuations
        )
    sha = hashlib.sha256(logits.float().cpu().contiguous().numpy().data)
    return PromptScore(scores=scores, logits_digest=Digest(sha.hexdigest()))


def _score_one(
    runner: Runner, prompt_ids: list[int], continuation: str, bank: Bank
) -> ContinuationScore:
    ids = runner.tokens.continuation(continuation)
    runner.tokens.fit_ids(len(prompt_ids) + len(ids))
    batch = runner.tokens.pad([prompt_ids + ids])
    logits = runner.logits(batch, bank, last=len(ids) + 1)[0, :-1].float()
    scores = functional.log_softmax(logits, dim=-1)
    wanted = torch.tensor(ids, dtype=torch.long, device=scores.device)
    picked = scores[torch.arange(len(ids)), wanted].tolist()
    return ContinuationScore(
        continuation=continuation,
        log_probability=math.fsum(picked),
        token_log_probabilities=tuple(picked),
        tokens=tuple(runner.tokens.decode([token]) for token in ids),
        is_greedy=bool((scores.argmax(dim=-1) == wanted).all()),
    )


def next_token_log_probabilities(
    runner: Runner, prompts: Sequence[str], bank: Bank
) -> Float[Tensor, "prompt vocab"]:
    """Log-probabilities of what follows each prompt."""
    rows = []
    for some in in_batches([runner.tokens.fit(prompt) for prompt in prompts], len):
        logits = runner.logits(runner.tokens.pad(some), bank, last=1)[:, -1].float()
        rows.append(functional.log_softmax(logits, dim=-1))
    return torch.cat(rows)


def perplexity(runner: Runner, texts: Sequence[str], bank: Bank) -> float:
    """exp of the mean negative log-likelihood a token over ``texts``, cut to the context."""
    found: list[tuple[float, int]] = []
    for rows in in_batches(rows_of(runner, texts), len, tokens=SCORED_TOKENS):
        found += losses(runner, rows, bank)
    return perplexity_of(found)


def rows_of(runner: Runner, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """The tokens of ``texts``, cut to the context; none of a text too short to be predicted."""
    rows = (tuple(runner.tokens.encode(text)[: runner.tokens.context]) for text in texts)
    return [row for row in rows if len(row) > 1]


def losses(runner: Runner, rows: Sequence[Sequence[int]], bank: Bank) -> list[tuple[float, int]]:
    """(negative log-likelihood, tokens predicted) of each of ``rows``, in one batch."""
    return [(math.fsum(row), len(row)) for row in token_losses(runner, rows, bank)]


def token_losses(
    runner: Runner, rows: Sequence[Sequence[int]], bank: Bank
) -> list[tuple[float, ...]]:
    """The negative log-likelihoods of each of ``rows``' tokens but the first, in one batch."""
    batch = runner.tokens.pad(rows)
    scores = functional.log_softmax(runner.logits(batch, bank).float(), dim=-1)
    picked = -scores[:, :-1].gather(2, batch.ids[:, 1:, None])[..., 0].double()
    real = batch.mask[:, :-1].bool()
    return [tuple(row[kept].tolist()) for row, kept in zip(picked, real, strict=True)]


def perplexity_of(found: Sequence[tuple[float, int]]) -> float:
    """exp of the mean of `losses`; not a number where there is none."""
    total, count = math.fsum(loss for loss, _ in found), sum(tokens for _, tokens in found)
    return math.exp(total / count) if count else math.nan
