"""Judging: what the edited model says and how likely it finds either object.

Exact figures are by free generation; ES, PS, NS and S are CounterFact's, by the mean
log-probability a token of the new and the true object (arXiv:2202.05262, section 3.4).
Invariant: the base model's answer to a prompt is found once and used by every method.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import torch
from torch.nn import functional

from benchmarks.editing.cases import Case
from benchmarks.editing.methods import Condition
from benchmarks.editing.workbench import Workbench
from errata_server.domain.answers import begins_with
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.measurements import Answer
from errata_server.engine.answers import ROWS, continue_greedily, perplexity
from errata_server.engine.bank import Bank
from errata_server.engine.measure import FLUENCY, FLUENCY_TOKENS, ngram_entropy
from errata_server.engine.runner import Runner

EXTRA_TOKENS: Final = 2
"""Generated beyond the longest answer: enough to see that its last word has ended."""

FLUENCY_PROMPTS: Final = 50


class Group(StrEnum):
    """Which prompts of a case."""

    EFFICACY = "efficacy"
    PARAPHRASES = "paraphrases"
    NEIGHBOURS = "neighbours"
    PREFIXED_NEIGHBOURS = "prefixed_neighbours"
    SAME_SUBJECT = "same_subject"
    REVERSE = "reverse"
    TWO_HOP = "two_hop"


PROMPTS: Final[dict[Group, Callable[[Case], Sequence[CheckPrompt]]]] = {
    Group.EFFICACY: lambda case: (case.efficacy,),
    Group.PARAPHRASES: lambda case: case.paraphrases,
    Group.NEIGHBOURS: lambda case: case.neighbours,
    Group.PREFIXED_NEIGHBOURS: lambda case: case.prefixed_neighbours,
    Group.SAME_SUBJECT: lambda case: case.same_subject,
    Group.REVERSE: lambda case: case.reverse,
    Group.TWO_HOP: lambda case: [
        CheckPrompt(prompt=hop.prompt, expected=hop.expected) for hop in case.two_hop
    ],
}


ASKED: Final = (Group.EFFICACY, Group.PARAPHRASES, Group.NEIGHBOURS)
"""Those that S is made of, and that an export is held to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """The mean log-probability a token of the new and of the true object after a prompt."""

    new: float
    true: float

    @property
    def magnitude(self) -> float:
        """p(new) - p(true)."""
        return math.exp(self.new) - math.exp(self.true)


@dataclass(slots=True)
class Tally:
    """Every answer, and what else was measured."""

    answers: defaultdict[Group, list[Answer]] = field(default_factory=lambda: defaultdict(list))
    preferences: defaultdict[Group, list[Preference]] = field(
        default_factory=lambda: defaultdict(list)
    )
    hops_before: list[bool] = field(default_factory=list)
    """Whether the base model answers each question of two hops, with the old object."""

    entropies: list[tuple[float, float]] = field(default_factory=list)
    """(before, after), in bits."""

    perplexity_ratios: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Every figure that could be measured; shares in percent."""
        exact = {
            "efficacy": self._held(Group.EFFICACY),
            "paraphrase": self._held(Group.PARAPHRASES),
            "neighbourhood": self._held(Group.NEIGHBOURS),
        }
        published = {
            "es": self._prefers_new(Group.EFFICACY),
            "ps": self._prefers_new(Group.PARAPHRASES),
            "ns": self._prefers_true(),
        }
        found = {
            **exact,
            "neighbourhood_before": self._held_before(Group.NEIGHBOURS),
            "neighbourhood_drop": self._drop(Group.NEIGHBOURS),
            "score": harmonic_mean(published.values()),
            "exact_score": harmonic_mean(exact.values()),
            **published,
            "em": self._magnitude(Group.EFFICACY),
            "pm": self._magnitude(Group.PARAPHRASES),
            "nm": -self._magnitude(Group.NEIGHBOURS),
            "prefixed_neighbourhood_drop": self._drop(Group.PREFIXED_NEIGHBOURS),
            "same_subject_drop": self._drop(Group.SAME_SUBJECT),
            "reverse": self._held(Group.REVERSE),
            "two_hop": self._held(Group.TWO_HOP),
            "two_hop_before": percent(self.hops_before),
            "fluency_before": mean(before for before, _ in self.entropies),
            "fluency": mean(after for _, after in self.entropies),
            "perplexity_ratio": mean(self.perplexity_ratios),
            "perplexity_ratio_largest": max(self.perplexity_ratios, default=math.nan),
        }
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def misses(self, group: Group) -> list[dict[str, str]]:
        """The prompts of ``group`` that were not answered as expected."""
        return [
            {"prompt": answer.prompt, "expected": answer.expected, "said": answer.after}
            for answer in self.answers[group]
            if not answer.held_after
        ]

    def _held(self, group: Group) -> float:
        return percent(answer.held_after for answer in self.answers[group])

    def _held_before(self, group: Group) -> float:
        return percent(answer.held_before for answer in self.answers[group])

    def _drop(self, group: Group) -> float:
        return self._held_before(group) - self._held(group)

    def _prefers_new(self, group: Group) -> float:
        return percent(p.new > p.true for p in self.preferences[group])

    def _prefers_true(self) -> float:
        return percent(p.true > p.new for p in self.preferences[Group.NEIGHBOURS])

    def _magnitude(self, group: Group) -> float:
        return 100 * mean(p.magnitude for p in self.preferences[group])


class Judge:
    """Asks every prompt of some cases, and the base model only once."""

    def __init__(self, bench: Workbench, cases: Sequence[Case]) -> None:
        self._bench = bench
        tokens = bench.runner.tokens
        expected = {
            prompt.expected for case in cases for of in PROMPTS.values() for prompt in of(case)
        }
        self._room = EXTRA_TOKENS + max(len(tokens.target(text)) for text in expected)
        self._base: dict[str, str] = {}
        self._base_entropies: dict[tuple[str, ...], float] = {}

    def judge(self, cases: Sequence[Case], condition: Condition, tally: Tally) -> None:
        """Add to ``tally`` what the model in ``condition`` makes of ``cases``, once learnt."""
        self.ask(cases, condition, tally, groups=list(Group))
        hops = [hop for case in cases for hop in case.two_hop]
        tally.hops_before += [begins_with(self._base[h.prompt], h.expected_before) for h in hops]
        for group in ASKED:
            tally.preferences[group] += self._preferences(cases, group, condition)
        self._judge_text(cases, condition, tally)

    def ask(
        self,
        cases: Sequence[Case],
        condition: Condition,
        tally: Tally,
        *,
        groups: Sequence[Group] = ASKED,
    ) -> None:
        """Add to ``tally`` the answers to the prompts of ``groups``, once learnt."""
        for group in groups:
            prompts = [prompt for case in cases for prompt in PROMPTS[group](case)]
            tally.answers[group] += self._ask(prompts, condition)

    def _judge_text(self, cases: Sequence[Case], condition: Condition, tally: Tally) -> None:
        """Free continuations and the fixed prose."""
        prompts = _continued_freely(cases)
        after = self._entropy(prompts, condition)
        tally.entropies.append((self._base_entropies[prompts], after))
        ratio = perplexity(self._bench.runner, self._bench.texts.drift, condition.bank)
        tally.perplexity_ratios.append(ratio / self._bench.base_perplexity)

    def learn(self, cases: Sequence[Case]) -> None:
        """Ask the base model everything about ``cases``; to be done before it is edited."""
        self.learn_answers(cases, groups=list(Group))
        continued = _continued_freely(cases)
        if continued not in self._base_entropies:
            self._base_entropies[continued] = self._entropy(continued, Condition())

    def learn_answers(self, cases: Sequence[Case], *, groups: Sequence[Group] = ASKED) -> None:
        """Ask the base model the prompts of ``groups``; to be done before it is edited."""
        prompts = [p.prompt for case in cases for group in groups for p in PROMPTS[group](case)]
        new = list(dict.fromkeys(p for p in prompts if p not in self._base))
        said = self._said(new, Condition())
        self._base |= dict(zip(new, said, strict=True))

    def _ask(self, prompts: Sequence[CheckPrompt], condition: Condition) -> list[Answer]:
        said = self._said([prompt.prompt for prompt in prompts], condition)
        return [
            Answer(
                prompt=prompt.prompt,
                expected=prompt.expected,
                before=self._base[prompt.prompt].strip(),
                after=after.strip(),
                held_before=begins_with(self._base[prompt.prompt], prompt.expected),
                held_after=begins_with(after, prompt.expected),
            )
            for prompt, after in zip(prompts, said, strict=True)
        ]

    def _said(self, prompts: Sequence[str], condition: Condition) -> list[str]:
        texts = [condition.rewrite(prompt) for prompt in prompts]
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))  # little padding
        continued = continue_greedily(
            self._bench.runner,
            [texts[at] for at in order],
            condition.bank,
            new_tokens=self._room,
        )
        said = dict(zip(order, continued, strict=True))
        return [said[at] for at in range(len(texts))]

    def _entropy(self, prompts: Sequence[str], condition: Condition) -> float:
        texts = continue_greedily(
            self._bench.runner,
            [condition.rewrite(prompt) for prompt in prompts],
            condition.bank,
            new_tokens=FLUENCY_TOKENS,
            options=FLUENCY,
        )
        return mean(ngram_entropy(text.split()) for text in texts)

    def _preferences(
        self, cases: Sequence[Case], group: Group, condition: Condition
    ) -> list[Preference]:
        """Of prompts with a true object that is not the new one."""
        rows = []
        for case in cases:
            for prompt in PROMPTS[group](case):
                true = prompt.expected if group is Group.NEIGHBOURS else case.true
                if true and true != case.target:
                    text = condition.rewrite(prompt.prompt)
                    rows += [(text, case.target), (text, true)]
        scores = iter(mean_log_probabilities(self._bench.runner, rows, condition.bank))
        return [Preference(new=new, true=true) for new, true in zip(scores, scores, strict=True)]


def _continued_freely(cases: Sequence[Case]) -> tuple[str, ...]:
    return tuple(case.efficacy.prompt for case in cases[:FLUENCY_PROMPTS])


def mean_log_probabilities(
    runner: Runner, rows: Sequence[tuple[str, str]], bank: Bank
) -> list[float]:
    """The mean log-probability a token of each (prompt, object) row's object."""
    found: list[float] = []
    for start in range(0, len(rows), ROWS):
        chunk = rows[start : start + ROWS]
        targets = [runner.tokens.target(text) for _, text in chunk]
        ids = [
            runner.tokens.fit(prompt, room=len(target)) + target[:-1]
            for (prompt, _), target in zip(chunk, targets, strict=True)
        ]
        width = max(map(len, targets))
        logits = runner.logits(runner.tokens.pad(ids), bank, last=width).float()
        scores = functional.log_softmax(logits, dim=-1)
        for row, target in zip(scores, targets, strict=True):
            picked = row[-len(target) :].gather(1, torch.tensor(target, device=row.device)[:, None])
            found.append(float(picked.mean()))
    return found


def harmonic_mean(values: Iterable[float]) -> float:
    """0 where any value is."""
    parts = list(values)
    if any(math.isnan(part) for part in parts):
        return math.nan
    return statistics.harmonic_mean(parts)


def percent(held: Iterable[bool]) -> float:
    """How many of ``held``, in percent; not a number where there are none."""
    return 100 * mean(float(value) for value in held)


def mean(values: Iterable[float]) -> float:
    """Not a number where there are none."""
    parts = list(values)
    return statistics.fmean(parts) if parts else math.nan
