"""The proxy: fitted on what the model says behind labelled texts, read alike when traced."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import errata_server
from errata_server.domain.errors import CancelledError, InvalidInputError, PromptTooLongError
from errata_server.domain.patches import Composition
from errata_server.domain.traces import LabelledText, ProxyQuestion
from errata_server.engine.bank import compose
from errata_server.engine.blocks import blocks_of
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.locate import proxy as proxies
from errata_server.engine.locate.proxy import (
    HELD_OUT,
    MINIMUM_TEXTS,
    ProxyReader,
    fit_proxy,
    proxy_prompt,
    proxy_scores,
    word_ids,
)
from errata_server.engine.runner import Runner
from tests.support import tiny_models

DEMO = Path(errata_server.__file__).parent / "demo"
WORDS = ProxyQuestion(suffix="It is in", words=("Rome", "Paris"))
STATE = ProxyQuestion(suffix="It is in", words=())
SEED = 7
TEXTS = tuple(
    LabelledText(text=f"{lead} {subject} {rest}".strip(), label=label)
    for lead in tiny_models.LEADS
    for subject, label in (("Colosseum", "south"), ("Louvre", "north"), ("Prado", "south"))
    for rest in ("is a place.", "is open.")
)


def silent(_):
    """Progress nobody follows."""


def fit(runner, texts=TEXTS, question=WORDS, *, positive="north", seed=SEED, **reader):
    return fit_proxy(
        ProxyReader(runner, question, **reader),
        texts,
        positive=positive,
        seed=seed,
        progress=silent,
    )


def final_states(runner, text, bank=None):
    """States behind the last layer, before the final norm, of one unpadded pass."""
    seen = []
    norm = blocks_of(runner.checkpoint).final_norm
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = runner.tokens.pad([runner.tokens.encode(text)])
    runner.logits(batch) if bank is None else runner.logits(batch, bank)
    handle.remove()
    return seen[0][0]


def naive_features(runner, text, question):
    """Of one text alone: from the model's own logits, or the state its head is given."""
    asked = f"{text} {question.suffix}"
    batch = runner.tokens.pad([runner.tokens.encode(asked)])
    if question.words:
        scores = runner.logits(batch)[0, -1].log_softmax(-1)
        first = [runner.tokens.encode(" " + word) for word in question.words]
        begins = [ids[1] if ids[0] == 1 else ids[0] for ids in first]  # 1 is Llama's BOS
        return scores[begins].double().numpy()
    seen = []
    head = runner.model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    runner.logits(batch)
    handle.remove()
    return seen[0][0, -1].double().numpy()


@pytest.mark.parametrize("question", [WORDS, STATE], ids=["words", "state"])
def test_a_proxy_is_scikit_learns_regression_on_standardised_features(either, question):
    proxy = fit(either, question=question)

    rows = np.array([naive_features(either, row.text, question) for row in TEXTS])
    labels = np.array([row.label for row in TEXTS])
    train, test, own, other = train_test_split(
        rows, labels, test_size=HELD_OUT, stratify=labels, random_state=SEED
    )
    own, other = own == "north", other == "north"
    mean, spread = train.mean(axis=0), train.std(axis=0)
    model = LogisticRegression(max_iter=5_000).fit((train - mean) / spread, own)
    margins = model.decision_function((rows - mean) / spread)
    ours = rows @ np.array(proxy.coefficients) + proxy.intercept
    assert ours == pytest.approx(margins, abs=2e-2)
    assert (proxy.train_texts, proxy.test_texts) == (len(train), len(test))
    assert proxy.train_accuracy == model.score((train - mean) / spread, own)
    assert proxy.test_accuracy == model.score((test - mean) / spread, other)
    assert proxy.majority_accuracy == (~other).mean()  # two of three are in the south
    assert proxy.labels == ("south", "north")
    assert proxy.question == question
    assert proxy.model_digest == either.checkpoint.digest


@pytest.mark.parametrize("question", [WORDS, STATE], ids=["words", "state"])
def test_a_trace_reads_at_final_states_what_the_fit_read(either, question):
    proxy = fit(either, question=question)
    texts = [row.text for row in TEXTS[:4]]
    blocks = blocks_of(either.checkpoint)
    ids = word_ids(either.tokens, question)

    states = torch.stack([final_states(either, proxy_prompt(question, t))[-1] for t in texts])
    scores = either.run(lambda: proxy_scores(blocks, proxy, ids, states.reshape(2, 2, -1)))

    rows = np.array([naive_features(either, text, question) for text in texts])
    margins = rows @ np.array(proxy.coefficients) + proxy.intercept
    expected = (1 / (1 + np.exp(-margins))).reshape(2, 2)
    assert scores.shape == (2, 2)
    assert scores.numpy() == pytest.approx(expected, abs=1e-3)


def test_naming_the_other_label_turns_the_probability_around(gpt2):
    north, south = fit(gpt2, positive="north"), fit(gpt2, positive="south")

    assert south.labels == north.labels[::-1]
    assert np.array(south.coefficients) == pytest.approx(-np.array(north.coefficients), rel=1e-3)
    assert south.intercept == pytest.approx(-north.intercept, rel=1e-3)
    assert south.test_accuracy == north.test_accuracy


def test_the_same_seed_gives_the_same_proxy_and_another_splits_otherwise(gpt2):
    assert fit(gpt2) == fit(gpt2)
    assert fit(gpt2, seed=SEED + 1).coefficients != fit(gpt2).coefficients


def test_a_proxy_is_fitted_on_the_model_with_its_live_edits(gpt2):
    bank = compose(
        [tiny_models.simple_patch(gpt2, "Louvre", seed=1)], Composition.GUARDED, gpt2.device
    )

    edited = fit(gpt2, bank=bank)

    assert edited.weights_digest == bank.digest()
    assert edited.coefficients != fit(gpt2).coefficients
    assert fit(gpt2).weights_digest != bank.digest()


def test_a_text_given_twice_counts_once(gpt2):
    assert fit(gpt2, texts=(*TEXTS, *TEXTS[:5])) == fit(gpt2)


def test_an_empty_suffix_reads_at_the_end_of_the_text_itself():
    assert proxy_prompt(ProxyQuestion(suffix=""), "It rained.") == "It rained."
    assert proxy_prompt(ProxyQuestion(), "It rained.") == "It rained. I am feeling"


def test_progress_counts_texts_and_cancelling_stops_the_reading(gpt2, monkeypatch):
    monkeypatch.setattr(proxies, "ROWS", 8)
    seen = []

    def cancel(progress):
        seen.append((progress.done, progress.total))
        if len(seen) == 2:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        fit_proxy(ProxyReader(gpt2, WORDS), TEXTS, positive="north", seed=0, progress=cancel)

    assert seen == [(8, len(TEXTS)), (16, len(TEXTS))]
    assert not blocks_of(gpt2.checkpoint).final_norm._forward_pre_hooks


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((), "there are no texts"),
        (tuple(row for row in TEXTS if row.label == "north"), "have 1: 'north' \\(12 texts\\)"),
        ((*TEXTS, LabelledText(text="Rome", label="east")), "two labels apart.*have 3"),
        (
            tuple(row for row in TEXTS if row.label == "south")
            + tuple(row for row in TEXTS if row.label == "north")[: MINIMUM_TEXTS - 1],
            f"'north' has {MINIMUM_TEXTS - 1} different texts",
        ),
        ((*TEXTS, LabelledText(text=" \n", label="north")), "text 36 is empty"),
        (
            (*TEXTS, replace(TEXTS[0], label="north")),
            "text 36, 'Colosseum is a place.', is labelled both 'south' and 'north'",
        ),
    ],
    ids=["none", "one label", "three labels", "too few", "empty", "both labels"],
)
def test_texts_nothing_can_be_learnt_from_are_refused(gpt2, texts, message):
    with pytest.raises(InvalidInputError, match=message) as refusal:
        fit(gpt2, texts=texts)

    assert refusal.value.metadata["field"] == "texts"


def test_too_few_different_texts_are_not_made_more_by_repeating_one(gpt2):
    few = [row for row in TEXTS if row.label == "north"][:3]
    south = [row for row in TEXTS if row.label == "south"]

    with pytest.raises(InvalidInputError, match="'north' has 3 different texts"):
        fit(gpt2, texts=[*south, *few * 5])


def test_a_positive_label_that_no_text_has_is_refused(gpt2):
    with pytest.raises(InvalidInputError, match="no text is labelled 'good'") as refusal:
        fit(gpt2, positive="good")

    assert refusal.value.metadata["field"] == "positive"


def test_texts_too_long_are_named_and_never_cut(gpt2):
    room = tiny_models.CONTEXT - len(gpt2.tokens.encode(proxy_prompt(WORDS, ""))) + 1
    word = gpt2.tokens.continuation(" Rome")
    assert len(word) == 1
    fits = LabelledText(text=("Rome" + " Rome" * room)[: -len(" Rome")], label="north")
    asked = proxy_prompt(WORDS, fits.text)
    while len(gpt2.tokens.encode(asked)) < tiny_models.CONTEXT:
        fits = replace(fits, text=fits.text + " Rome")
        asked = proxy_prompt(WORDS, fits.text)
    while len(gpt2.tokens.encode(asked)) > tiny_models.CONTEXT:
        fits = replace(fits, text=fits.text.removesuffix(" Rome"))
        asked = proxy_prompt(WORDS, fits.text)
    assert len(gpt2.tokens.encode(asked)) == tiny_models.CONTEXT
    long = replace(fits, text=fits.text + " Rome")

    assert fit(gpt2, texts=(*TEXTS, fits)).train_texts > 0
    with pytest.raises(PromptTooLongError, match="text 36, 'Rome Rome.*; 1 more are") as refusal:
        fit(gpt2, texts=(*TEXTS, long, fits, replace(long, text=long.text + " Rome")))
    assert refusal.value.metadata["index"] == "36"
    assert refusal.value.metadata["tokens"] == str(tiny_models.CONTEXT + 1)
    assert refusal.value.metadata["too_long"] == "2"


def test_a_word_of_several_tokens_is_read_at_its_first(gpt2):
    ids = gpt2.tokens.continuation(" Zoë")
    assert len(ids) > 1

    assert word_ids(gpt2.tokens, ProxyQuestion(words=("Zoë", "Rome"))) == (
        ids[0],
        gpt2.tokens.continuation(" Rome")[0],
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("Rome", "Rome"), "'Rome' and 'Rome' begin with the same token"),
        (("Zoë", "Zoo"), "'Zoë' and 'Zoo' begin with the same token"),
        (("Rome", " "), "' ' has no tokens"),
    ],
)
def test_words_that_cannot_be_told_apart_are_refused(gpt2, words, message):
    with pytest.raises(InvalidInputError, match=message) as refusal:
        fit(gpt2, question=ProxyQuestion(words=words))

    assert refusal.value.metadata["field"] == "words"


@pytest.mark.skipif(not (DEMO / "model").is_dir(), reason="the bundled model is not built yet")
@pytest.mark.parametrize("words", [("good", "bad"), ()], ids=["words", "state"])
def test_the_bundled_model_tells_feelings_apart_in_texts_held_out(words):
    runner = Runner(load_checkpoint(str(DEMO / "model")))
    rows = json.loads((DEMO / "sentiment.json").read_text("utf-8"))

    proxy = fit(
        runner,
        texts=[LabelledText(**row) for row in rows],
        question=ProxyQuestion(words=words),
        positive="good",
    )
    runner.close()

    assert proxy.test_texts == 100
    assert proxy.majority_accuracy == 0.5
    assert proxy.test_accuracy >= 0.97
