"""A classifier over what the model says at the end of a text: the proxy a causal trace can follow.

The sentiment experiment: put "I am feeling" behind labelled texts, read how likely " good" and
" bad" are next, fit a logistic regression on that, trace its probability. Invariants: what is
read when fitting is read by the same function when tracing; no text is ever cut; accuracy is
told of texts that had no part in the fit.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional

from errata_server.domain.errors import InvalidInputError, PromptTooLongError
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.domain.traces import LabelledText, Proxy, ProxyQuestion
from errata_server.engine.bank import Bank
from errata_server.engine.blocks import Blocks, blocks_of
from errata_server.engine.hooks import capture
from errata_server.engine.runner import BASE, Runner
from errata_server.engine.tokens import Tokens, join

MINIMUM_TEXTS: Final = 10
"""Distinct texts a label needs: fewer leave nothing to hold out."""

HELD_OUT: Final = 0.25
ROWS: Final = 16
"""Texts in one forward pass."""

MAXIMUM_ITERATIONS: Final = 5_000
SHOWN: Final = 40
"""Characters of a text that an error quotes."""


@dataclass(frozen=True, slots=True)
class ProxyReader:
    """What a proxy is read from: a model with its live edits, and the question put to it."""

    runner: Runner
    question: ProxyQuestion
    bank: Bank = BASE


@dataclass(frozen=True, slots=True)
class _Line:
    """A fitted classifier with standardisation folded in, and how it did."""

    coefficients: tuple[float, ...]
    intercept: float
    train_texts: int
    test_texts: int
    train_accuracy: float
    test_accuracy: float
    majority_accuracy: float


def fit_proxy(
    reader: ProxyReader,
    texts: Sequence[LabelledText],
    *,
    positive: str,
    seed: int,
    progress: ReportProgress,
) -> Proxy:
    """A logistic regression from what the model says behind ``texts`` to their labels.

    A quarter of the texts, the same share of each label, is held out of the fit. A text that
    is there more than once counts once, or it could sit on both sides.

    Args:
        positive: The label whose probability the proxy gives.

    Raises:
        InvalidInputError: there are not two labels, too few texts of one, an empty text, a
            text with both labels, ``positive`` is neither label, or the words cannot be told
            apart.
        PromptTooLongError: a text with its suffix does not fit the context.
        CancelledError: ``progress`` asked for it.
    """
    rows = _distinct(texts)
    labels = _labels(rows, positive)
    ids = word_ids(reader.runner.tokens, reader.question)
    encoded = _encoded(reader, [row.text for row in texts])
    features = _read(reader, [encoded[text] for text in rows], ids, progress)
    line = _fit(features.cpu().double().numpy(), list(rows.values()), positive, seed)
    return Proxy(
        question=reader.question,
        labels=labels,
        coefficients=line.coefficients,
        intercept=line.intercept,
        train_texts=line.train_texts,
        test_texts=line.test_texts,
        train_accuracy=line.train_accuracy,
        test_accuracy=line.test_accuracy,
        majority_accuracy=line.majority_accuracy,
        seed=seed,
        model_digest=reader.runner.checkpoint.digest,
        weights_digest=reader.bank.digest(),
    )


def proxy_prompt(question: ProxyQuestion, text: str) -> str:
    """``text`` with the question's suffix behind it: what the model is shown."""
    return join(text, question.suffix) if question.suffix else text


def word_ids(tokens: Tokens, question: ProxyQuestion) -> tuple[int, ...]:
    """The first token of each of the question's words; none where it reads the whole state.

    Raises:
        InvalidInputError: a word has no tokens, or two begin with the same one.
    """
    first: dict[int, str] = {}
    for word in question.words:
        ids = tokens.continuation(" " + word) if word.strip() else []
        if not ids:
            raise InvalidInputError(
                f"the word {word!r} has no tokens; give words the model can say",
                field="words",
                word=word,
            )
        if ids[0] in first:
            raise InvalidInputError(
                f"the words {first[ids[0]]!r} and {word!r} begin with the same token, so their "
                "probabilities are one and the same; choose others",
                field="words",
                word=word,
            )
        first[ids[0]] = word
    return tuple(first)


def proxy_features(
    blocks: Blocks, words: Sequence[int], final: Float[Tensor, "*rows d_model"]
) -> Float[Tensor, "*rows feature"]:
    """What the classifier sees of states behind the last layer, before the final norm.

    The log-probabilities of ``words``, or the whole normed state where there are none.
    Logarithms, because probabilities hide what a model seldom says: with the words happy and
    sad, which the bundled model gives some 1e-12, they tell 54 % of its held-out feelings
    apart and the logarithms 74 %; with good and bad both tell all of them.
    """
    if not words:
        return blocks.final_norm(final).float()  # type: ignore[no-any-return]
    return functional.log_softmax(blocks.logits(final), dim=-1)[..., list(words)]


def proxy_scores(
    blocks: Blocks, proxy: Proxy, words: Sequence[int], final: Float[Tensor, "*rows d_model"]
) -> Float[Tensor, "*rows"]:
    """Probability of the proxy's positive label at states behind the last layer.

    Args:
        words: The proxy's `word_ids`.
    """
    features = proxy_features(blocks, words, final)
    weights = torch.tensor(proxy.coefficients, dtype=features.dtype, device=features.device)
    return torch.sigmoid(features @ weights + proxy.intercept)


def _distinct(texts: Sequence[LabelledText]) -> dict[str, str]:
    """Each text once, with its label."""
    rows: dict[str, str] = {}
    for index, row in enumerate(texts):
        if not row.text.strip():
            raise InvalidInputError(
                f"text {index} is empty; leave it out or give it words",
                field="texts",
                index=index,
            )
        if rows.setdefault(row.text, row.label) != row.label:
            raise InvalidInputError(
                f"text {index}, {_quoted(row.text)}, is labelled both {rows[row.text]!r} and "
                f"{row.label!r}; keep one",
                field="texts",
                index=index,
            )
    return rows


def _labels(rows: dict[str, str], positive: str) -> tuple[str, str]:
    """(negative, positive), where that is what there is."""
    counts = Counter(rows.values())
    if len(counts) != 2:
        found = ", ".join(f"{label!r} ({counts[label]} texts)" for label in sorted(counts))
        raise InvalidInputError(
            f"a proxy tells two labels apart, but the texts have {len(counts)}: "
            f"{found or 'there are no texts'}",
            field="texts",
            labels=len(counts),
        )
    if positive not in counts:
        raise InvalidInputError(
            f"no text is labelled {positive!r}; the labels are {' and '.join(sorted(counts))}",
            field="positive",
            positive=positive,
        )
    label, count = min(counts.items(), key=lambda row: row[1])
    if count < MINIMUM_TEXTS:
        raise InvalidInputError(
            f"{label!r} has {count} different texts; a proxy needs {MINIMUM_TEXTS} of each label",
            field="texts",
            label=label,
            texts=count,
            needed=MINIMUM_TEXTS,
        )
    (negative,) = set(counts) - {positive}
    return negative, positive


def _read(
    reader: ProxyReader,
    rows: Sequence[Sequence[int]],
    words: Sequence[int],
    progress: ReportProgress,
) -> Float[Tensor, "text feature"]:
    """The features of each text, a forward pass a batch."""
    blocks = blocks_of(reader.runner.checkpoint)
    features = []
    for start in range(0, len(rows), ROWS):
        chosen = rows[start : start + ROWS]
        step = functools.partial(_read_batch, reader, blocks, words, chosen)
        features.append(reader.runner.run(step))
        progress(Progress(stage="proxy", done=start + len(chosen), total=len(rows)))
    return torch.cat(features)


def _read_batch(
    reader: ProxyReader, blocks: Blocks, words: Sequence[int], rows: Sequence[Sequence[int]]
) -> Float[Tensor, "text feature"]:
    """The features of a few texts; must run on a model thread."""
    runner = reader.runner
    with capture(blocks.final_norm, stop=True) as seen:
        runner.logits(runner.tokens.pad(rows), reader.bank, last=1)
    return proxy_features(blocks, words, seen.last[:, -1])


def _encoded(reader: ProxyReader, texts: Sequence[str]) -> dict[str, list[int]]:
    """Token ids of every text with its suffix; a text that does not fit is named, never cut."""
    tokens = reader.runner.tokens
    rows = {text: tokens.encode(proxy_prompt(reader.question, text)) for text in texts}
    long = [index for index, text in enumerate(texts) if len(rows[text]) > tokens.context]
    if long:
        text, more = texts[long[0]], len(long) - 1
        raise PromptTooLongError(
            f"text {long[0]}, {_quoted(text)}, has {len(rows[text])} tokens with its suffix, but "
            f"the model sees {tokens.context}"
            + (f"; {more} more are too long" if more else "")
            + "; shorten them or leave them out",
            field="texts",
            index=long[0],
            tokens=len(rows[text]),
            context=tokens.context,
            too_long=len(long),
        )
    return rows


def _fit(features: NDArray[np.float64], labels: Sequence[str], positive: str, seed: int) -> _Line:
    # Stratified by name, so that the split does not depend on which label is the positive one.
    train, test, train_labels, test_labels = train_test_split(
        features, labels, test_size=HELD_OUT, stratify=labels, random_state=seed
    )
    train_truth, test_truth = np.equal(train_labels, positive), np.equal(test_labels, positive)
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(max_iter=MAXIMUM_ITERATIONS).fit(
        scaler.transform(train), train_truth
    )
    # w . (x - mean) / scale + b, written as one w' . x + b': a trace need not know the scaler.
    weights = model.coef_[0] / scaler.scale_
    return _Line(
        coefficients=tuple(float(weight) for weight in weights),
        intercept=float(model.intercept_[0] - weights @ scaler.mean_),
        train_texts=len(train),
        test_texts=len(test),
        train_accuracy=float(model.score(scaler.transform(train), train_truth)),
        test_accuracy=float(model.score(scaler.transform(test), test_truth)),
        majority_accuracy=float((test_truth == (train_truth.mean() >= 0.5)).mean()),
    )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")
