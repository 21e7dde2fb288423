"""Attributes rate: how much of a subject its own last token says (Geva 2023, arXiv:2304.14767).

The share of the likeliest tokens, read by the logit lens at the subject's last token, that
belong to the subject's own vocabulary: words of texts that name it, and objects of known facts
about it. Then the same where the MLP or the attention outputs of a window of layers are taken
away at the subject, and where the answer comes on top of an update at the last token (the
attribute extraction). Invariant: no word of the prompt and no stop word counts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from errata_server.domain.locators import Chart, ChartForm, Locator, LocatorOption
from errata_server.domain.operations import ReportProgress
from errata_server.engine.blocks import attend
from errata_server.engine.locate.case import Case, Findings, Row, Steps
from errata_server.engine.locate.cells import window_of
from errata_server.engine.locate.charts import chart
from errata_server.engine.locate.suffix import CleanRun, clean_run, rows_together

FEW_WORDS: Final = 50
"""Words below which the rate says little."""

WINDOW: Final = 10
"""Layers whose outputs are taken away together, at most half the model's; as in the paper."""

SHORTEST: Final = 3
"""Letters a token must have to count: shorter ones begin words of any kind."""

_LETTERS: Final = re.compile(r"[^\W\d_]+")
STOP_WORDS: Final = frozenset(
    _LETTERS.findall(
        "a about above after again against all also am an and another any are as at be became "
        "because been before being below between both but by can could did do does doing down "
        "during each even ever every few first for from further had has have having he her here "
        "hers him his how i if in into is it its just last like made many may me more most much "
        "must my never new no nor not now of off often old on once one only or other our out over "
        "own said same she should since so some such than that the their them then there these "
        "they this those three through to too two under until up us very was we well were what "
        "when where which while who whom why will with would year years yet you your "
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The subject's own words, and the tokens that begin them."""

    words: frozenset[str]
    tokens: frozenset[int]
    texts: int
    """Texts that name the subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Removal:
    """One kind of outputs taken away at the subject in the layers [first, end)."""

    mlp: bool
    first: int
    end: int

    def acts(self, layer: int, *, mlp: bool) -> bool:
        """Whether it takes away this kind of output in ``layer``."""
        return self.mlp is mlp and self.first <= layer < self.end


def run(case: Case, options: Mapping[str, float], progress: ReportProgress) -> Findings:
    """The rate by layer, what it loses without each kind of output, and the extraction."""
    layers, likeliest = case.blocks.layers, int(options["k"])
    vocabulary = subject_vocabulary(case)
    clean = clean_run(case, case.ids, Steps(progress, total=layers))
    rates = [
        rate
        for state in clean.states
        for rate in case.step(
            partial(_rates, case, state[case.subject_end, None], vocabulary, likeliest)
        )
    ]
    peak = max(range(layers), key=lambda layer: (rates[layer + 1] or 0.0, layer))
    losses = _losses(case, clean, (vocabulary, likeliest), peak, progress)
    ranks = {
        "attention": _extraction(case, [layer.attention for layer in clean.layers]),
        "MLP": _extraction(case, [layer.mlp for layer in clean.layers]),
    }
    return Findings(
        charts=_charts(case, rates, losses, peak, ranks),
        figures=_figures(case, vocabulary, rates[peak + 1], peak)
        | {f"{name.lower()}_extraction_rate": _share_on_top(one) for name, one in ranks.items()},
        warnings=(*case.first_token_warnings, *_warnings(vocabulary)),
    )


def subject_vocabulary(case: Case) -> Vocabulary:
    """Words of texts that name the subject and of known objects, less common and given ones."""
    texts = [text for text in case.texts if case.subject in text]
    objects = [fact.object for fact in case.known_facts.of_subject(case.subject)]
    given = {word.lower() for word in _words(case.prompt)}
    words = frozenset(
        word
        for text in (*texts, *objects)
        for word in _words(text)
        if word.lower() not in STOP_WORDS | given
    )
    return Vocabulary(words=words, tokens=_first_tokens(case, words), texts=len(texts))


def _words(text: str) -> list[str]:
    return _LETTERS.findall(text)


def _first_tokens(case: Case, words: frozenset[str]) -> frozenset[int]:
    """Tokens that begin a word; those of the prompt and very short ones left out."""
    tokens = case.runner.tokens
    firsts = {tokens.continuation(" " + word)[0] for word in words} - set(case.ids)
    return frozenset(token for token in firsts if len(tokens.decode([token]).strip()) >= SHORTEST)


def _rates(
    case: Case, states: Float[Tensor, "row d_model"], vocabulary: Vocabulary, likeliest: int
) -> list[float | None]:
    """Share of each row's likeliest tokens that are the subject's; None without a vocabulary."""
    if not vocabulary.tokens:
        return [None] * len(states)
    logits = case.blocks.logits(states)
    top = logits.topk(min(likeliest, logits.shape[-1])).indices
    return [sum(token in vocabulary.tokens for token in row) / len(row) for row in top.tolist()]


def _losses(
    case: Case,
    clean: CleanRun,
    ask: tuple[Vocabulary, int],
    peak: int,
    progress: ReportProgress,
) -> dict[str, list[float | None]]:
    """The rate behind layer ``peak`` without each kind of output, by the window's centre.

    None where the window begins above it.
    """
    layers = case.blocks.layers
    windows = [window_of(layer, layers, _width(case)) for layer in range(layers)]
    reaching = [window for window in windows if window[0] <= peak]  # in order of first layer
    together = rows_together(case.subject_end + 1)
    walks = 2 * -(-len(reaching) // together)
    steps = Steps(progress, total=walks * (peak + 1), stage="taking outputs away")
    found: dict[str, list[float | None]] = {}
    for name, mlp in (("attention", False), ("MLP", True)):
        removals = [_Removal(mlp=mlp, first=first, end=end) for first, end in reaching]
        rates: list[float | None] = []
        for start in range(0, len(removals), together):
            states = _walk(case, clean, removals[start : start + together], peak, steps)
            rates += case.step(partial(_rates, case, states, *ask))
        found[name] = rates + [None] * (layers - len(rates))
    return found


def _width(case: Case) -> int:
    """Layers whose outputs are taken away together."""
    return min(WINDOW, max(1, case.blocks.layers // 2))


def _walk(
    case: Case, clean: CleanRun, removals: Sequence[_Removal], peak: int, steps: Steps
) -> Float[Tensor, "row d_model"]:
    """The state at the subject's last token behind layer ``peak``, a row a removal."""
    tokens = case.subject_end + 1
    states = clean.layers[0].before[:0, :tokens]

    def advance(layer: int) -> Tensor:
        born = [removal for removal in removals if removal.first <= layer]
        if not born:
            return states
        joining = clean.layers[layer].before[:, :tokens]
        joined = torch.cat([states, joining.expand(len(born) - len(states), -1, -1)])
        return _layer_without(case, layer, joined, born)

    for layer in range(peak + 1):
        states = case.step(partial(advance, layer))
        steps.finish()
    return states[:, -1]


def _layer_without(
    case: Case,
    layer: int,
    states: Float[Tensor, "batch seq d_model"],
    removals: Sequence[_Removal],
) -> Float[Tensor, "batch seq d_model"]:
    """One layer, each row without what its removal takes away at the subject."""
    blocks, seq = case.blocks, states.shape[1]
    subject = torch.zeros(seq, dtype=torch.bool, device=states.device)
    subject[[at for at in case.subject_positions if at < seq]] = True
    positions = torch.arange(seq, device=states.device)
    mixed = attend(blocks.project(layer, states, positions), blocks.scaling(layer))
    attention = blocks.attention_output(layer, mixed)
    gone = _acting(removals, layer, mlp=False).to(states.device)[:, None] & subject
    middle = states + attention.masked_fill(gone[..., None], 0)
    gone = _acting(removals, layer, mlp=True).to(states.device)[:, None] & subject
    return middle + blocks.mlp_output(layer, middle).masked_fill(gone[..., None], 0)


def _acting(removals: Sequence[_Removal], layer: int, *, mlp: bool) -> Bool[Tensor, " batch"]:
    return torch.tensor([removal.acts(layer, mlp=mlp) for removal in removals])


def _extraction(case: Case, updates: Sequence[Float[Tensor, "1 seq d_model"]]) -> list[int]:
    """Rank of the answer's first token in each update at the last token; 1 is on top."""

    def rank(update: Float[Tensor, "1 seq d_model"]) -> int:
        logits = case.blocks.logits(update[0, -1])
        return 1 + int((logits > logits[case.answer_ids[0]]).sum())

    return [case.step(partial(rank, update)) for update in updates]


def _figures(case: Case, vocabulary: Vocabulary, rate: float | None, peak: int) -> dict[str, float]:
    figures = {
        "subject_words": float(len(vocabulary.words)),
        "subject_texts": float(vocabulary.texts),
    }
    if rate is None:
        return figures
    chance = len(vocabulary.tokens) / case.blocks.vocabulary
    rates = {"attributes_rate": rate, "attributes_rate_layer": float(peak), "chance_rate": chance}
    return figures | rates


def _share_on_top(ranks: Sequence[int]) -> float:
    return sum(rank == 1 for rank in ranks) / len(ranks)


def _charts(
    case: Case,
    rates: Sequence[float | None],
    losses: Mapping[str, Sequence[float | None]],
    peak: int,
    ranks: Mapping[str, Sequence[int]],
) -> tuple[Chart, ...]:
    names = case.layer_names
    return (
        chart(
            ChartForm.LINES,
            "Attributes rate at the subject's last token",
            [("subject", rates)],
            columns=("embeddings", *names),
            axes=("token", "layer"),
            unit="share of the likeliest tokens",
        ),
        chart(
            ChartForm.LINES,
            f"Attributes rate behind layer {peak} without the outputs of {_width(case)} layers "
            "at the subject",
            [
                *((f"without {name}", values) for name, values in losses.items()),
                ("as it is", [rates[peak + 1]] * len(names)),
            ],
            columns=names,
            axes=("what is taken away", "middle of those layers"),
            unit="share of the likeliest tokens",
        ),
        chart(
            ChartForm.LINES,
            "Rank of the answer in each update of the last token",
            list(ranks.items()),
            columns=names,
            axes=("update", "layer"),
            unit="rank; 1 is on top",
        ),
    )


def _warnings(vocabulary: Vocabulary) -> tuple[str, ...]:
    if len(vocabulary.words) >= FEW_WORDS:
        return ()
    return (
        f"only {len(vocabulary.words)} words of the subject's own are known, from "
        f"{vocabulary.texts} texts that name it; give texts about it for a rate that says more",
    )


ROW: Final = Row(
    locator=Locator(
        name="attributes",
        title="Attributes rate",
        shows="From which layer on the subject's last token holds what is known of the subject, "
        "which outputs put it there, and which update brings the answer to the last token.",
        cannot_show="That the model uses what the lens reads; words count as the subject's own "
        "because texts at hand put them beside it, so few texts make a coarse rate.",
        source="Geva et al. 2023, arXiv:2304.14767",
        options=(
            LocatorOption(
                name="k", meaning="likeliest tokens looked at", default=50, minimum=1, maximum=1000
            ),
        ),
    ),
    run=run,
)
