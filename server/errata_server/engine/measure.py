"""The measurements behind the checks: every prompt of a plan asked before and after.

Nothing here decides; `errata_server.domain.evaluation` does.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from torch.nn import functional

from errata_server.domain.answers import begins_with
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.generation import GenerationOptions
from errata_server.domain.measurements import Answer, Measurements, VerificationPlan
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.engine.answers import CONTINUED, in_batches, next_token_log_probabilities
from errata_server.engine.bank import Bank
from errata_server.engine.recall import GREEDY, Recall
from errata_server.engine.runner import BASE, Runner
from errata_server.engine.tokens import Tokens

EXTRA_TOKENS: Final = 4
"""Generated beyond the expected answer, so that a reader sees how it goes on."""

FLUENCY_TOKENS: Final = 60
FLUENCY: Final = GenerationOptions(temperature=1.0, top_k=5, seed=0)
"""The field's setting for the entropy of free continuations."""


@dataclass(slots=True)
class _Stages:
    """Reports each finished stage of a plan."""

    progress: ReportProgress
    total: int
    done: int = 0

    def finish(self, note: str) -> None:
        self.done += 1
        self.progress(Progress(stage="checks", done=self.done, total=self.total, note=note))


def measure(
    recall: Recall,
    plan: VerificationPlan,
    *,
    before: Bank,
    after: Bank,
    progress: ReportProgress,
) -> Measurements:
    """What the model says to every prompt of ``plan`` with ``before`` and with ``after``.

    Raises:
        PromptTooLongError: a prompt does not fit the context.
        CancelledError: ``progress`` asked for it.
    """
    stages = _Stages(progress, total=9)
    answers = {}
    for name, prompts in _questions(plan).items():
        answers[name] = ask(recall, prompts, before, after)
        stages.finish(name)
    entropy = [_mean_entropy(recall, plan.fluency, bank) for bank in (before, after)]
    stages.finish("fluency")
    texts = plan.drift_texts
    ppl = [recall.perplexity(texts, bank) for bank in (BASE, before, after)]
    divergence = _divergence(recall, [p.prompt for p in plan.neighbours], before, after)
    stages.finish("drift")
    return Measurements(
        efficacy=answers["efficacy"],
        paraphrases=answers["paraphrases"],
        neighbours=answers["neighbours"],
        prefixed_neighbours=answers["prefixed neighbours"],
        same_subject=answers["same subject"],
        live_facts=tuple(
            _owned(answer, fact.edit)
            for answer, fact in zip(answers["live facts"], plan.live_facts, strict=True)
        ),
        neighbour_divergence=divergence,
        entropy_before=entropy[0],
        entropy_after=entropy[1],
        perplexity_base=ppl[0],
        perplexity_before=ppl[1],
        perplexity_after=ppl[2],
        suite=answers["suite"],
    )


def rehearse(
    recall: Recall,
    plans: Sequence[VerificationPlan],
    banks: Sequence[Bank],
    *,
    progress: ReportProgress,
) -> None:
    """Ask all that `measure` will ask about ``plans``, in shared passes, so that it is recalled.

    Raises:
        PromptTooLongError: a prompt does not fit the context.
        CancelledError: ``progress`` asked for it.
    """
    tokens = recall.runner.tokens
    rooms: dict[str, int] = defaultdict(int)
    for plan in plans:
        for prompts in _questions(plan).values():
            room = _room(recall, prompts) if prompts else 0
            for prompt in prompts:
                left = tokens.context - len(tokens.fit(prompt.prompt))
                rooms[prompt.prompt] = max(rooms[prompt.prompt], min(room, left))
    rooms = {text: room for text, room in rooms.items() if room}
    starters = dict.fromkeys(starter for plan in plans for starter in plan.fluency)
    fluency = dict.fromkeys(starters, FLUENCY_TOKENS)
    calls = [(GREEDY, rooms, some) for some in _alike(rooms, tokens)]
    calls += [(FLUENCY, fluency, some) for some in _alike(fluency, tokens)]
    for done, (options, asked, texts) in enumerate(calls):
        for bank in banks:
            progress(Progress(stage="rehearsal", done=done, total=len(calls)))
            recall.continue_prompts(
                texts, bank, new_tokens=[asked[text] for text in texts], options=options
            )
    for bank in banks:
        recall.perplexity([text for plan in plans[:1] for text in plan.drift_texts], bank)


def _alike(rooms: Mapping[str, int], tokens: Tokens) -> Iterator[Sequence[str]]:
    """Prompts for one batch each: of like length, then of like room."""
    sizes = {text: len(tokens.encode(text)) for text in rooms}
    texts = sorted(rooms, key=lambda text: (sizes[text], rooms[text]))
    return in_batches(texts, lambda text: sizes[text] + rooms[text], tokens=CONTINUED)


def _questions(plan: VerificationPlan) -> dict[str, tuple[CheckPrompt, ...]]:
    """The prompts of ``plan`` that are answered greedily, by what they are for."""
    return {
        "efficacy": plan.efficacy,
        "paraphrases": plan.paraphrases,
        "neighbours": plan.neighbours,
        "prefixed neighbours": plan.prefixed_neighbours,
        "same subject": plan.same_subject,
        "live facts": tuple(fact.prompt for fact in plan.live_facts),
        "suite": plan.suite,
    }


def _room(recall: Recall, prompts: Sequence[CheckPrompt]) -> int:
    """Tokens to generate so that the longest of the expected answers ends, and a few more."""
    tokens = recall.runner.tokens
    return EXTRA_TOKENS + max(len(tokens.target(prompt.expected)) for prompt in prompts)


def ask(
    recall: Recall, prompts: Sequence[CheckPrompt], before: Bank, after: Bank
) -> tuple[Answer, ...]:
    """Greedy answers to ``prompts`` with each bank, by free generation.

    Raises:
        PromptTooLongError: a prompt does not fit the context.
    """
    if not prompts:
        return ()
    texts = [prompt.prompt for prompt in prompts]
    room = _room(recall, prompts)
    said = [recall.continue_prompts(texts, bank, new_tokens=room) for bank in (before, after)]
    return tuple(
        Answer(
            prompt=prompt.prompt,
            expected=prompt.expected,
            before=first.strip(),
            after=second.strip(),
            held_before=begins_with(first, prompt.expected),
            held_after=begins_with(second, prompt.expected),
        )
        for prompt, first, second in zip(prompts, *said, strict=True)
    )


def ask_in_batches(
    recall: Recall,
    prompts: Sequence[CheckPrompt],
    *,
    before: Bank,
    after: Bank,
    progress: ReportProgress,
) -> tuple[Answer, ...]:
    """As `ask`, telling how far it has come.

    Raises:
        PromptTooLongError: a prompt does not fit the context.
        CancelledError: ``progress`` asked for it.
    """
    found: list[Answer] = []
    tokens = recall.runner.tokens
    sizes = {prompt: len(tokens.encode(prompt.prompt)) for prompt in prompts}
    room = _room(recall, prompts) if prompts else 0
    for some in in_batches(prompts, lambda prompt: sizes[prompt] + room, tokens=CONTINUED):
        found += ask(recall, some, before, after)
        progress(Progress(stage="questions", done=len(found), total=len(prompts)))
    return tuple(found)


def continue_in_batches(
    recall: Recall,
    prompts: Sequence[str],
    options: GenerationOptions,
    bank: Bank,
    *,
    progress: ReportProgress,
) -> tuple[str, ...]:
    """What the model says after each of ``prompts``, telling how far it has come.

    Raises:
        PromptTooLongError: a prompt does not fit the context.
        CancelledError: ``progress`` asked for it.
    """
    found: list[str] = []
    tokens, room = recall.runner.tokens, options.max_new_tokens
    for some in in_batches(prompts, lambda text: len(tokens.encode(text)) + room, tokens=CONTINUED):
        found += recall.continue_prompts(some, bank, new_tokens=room, options=options)
        progress(Progress(stage="questions", done=len(found), total=len(prompts)))
    return tuple(found)


def require_room(runner: Runner, prompts: Sequence[CheckPrompt]) -> None:
    """Do nothing if each of ``prompts`` can be asked beside the others.

    Raises:
        PromptTooLongError: one does not fit the context with room for the longest answer.
    """
    room = EXTRA_TOKENS + max((len(runner.tokens.target(p.expected)) for p in prompts), default=0)
    for prompt in prompts:
        runner.tokens.fit(prompt.prompt, room=room)


def ngram_entropy(words: Sequence[str]) -> float:
    """Weighted mean of bi- and tri-gram entropies in bits (2/3, 4/3: Meng et al. 2022)."""
    weighted = sum(weight * _entropy(words, n) for n, weight in ((2, 2 / 3), (3, 4 / 3)))
    return weighted / 2


def _entropy(words: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values()) if total else 0.0


def _mean_entropy(recall: Recall, prompts: Sequence[str], bank: Bank) -> float:
    if not prompts:
        return 0.0
    texts = recall.continue_prompts(prompts, bank, new_tokens=FLUENCY_TOKENS, options=FLUENCY)
    return sum(ngram_entropy(text.split()) for text in texts) / len(texts)


def _divergence(recall: Recall, prompts: Sequence[str], before: Bank, after: Bank) -> float:
    """Mean KL(before || after) of the next token, in nats."""
    changed = recall.differing(prompts, before, after)
    if not changed:
        return 0.0
    first = next_token_log_probabilities(recall.runner, changed, before)
    second = next_token_log_probabilities(recall.runner, changed, after)
    # kl_div(input, target) is KL(target || input); KL of equal rows may round below 0.
    total = functional.kl_div(second, first, reduction="sum", log_target=True)
    return max(float(total), 0.0) / len(prompts)


def _owned(answer: Answer, edit: str) -> Answer:
    return replace(answer, edit=edit)
