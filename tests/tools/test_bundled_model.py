import json
import random

import pytest

from tools.evaluate import Loaded, open_model
from tools.facts import DEMO, load
from tools.recall import held_out_pairs, recalled, share, trained_pairs

MODEL = DEMO / "model"
LARGEST = 20_000_000

pytestmark = pytest.mark.skipif(
    not (MODEL / "model.safetensors").exists(), reason="the model has not been trained here"
)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return open_model(MODEL)


@pytest.fixture(scope="module")
def known():
    return load()


@pytest.fixture(scope="module")
def sample(known):
    taught = [fact for fact in known.facts if fact.source != "invented"]
    return random.Random(2).sample(taught, k=60)


def test_the_model_recalls_what_it_was_taught(loaded: Loaded, known, sample):
    assert share(recalled(*loaded, trained_pairs(known, sample))) >= 0.97


def test_the_model_knows_a_fact_in_phrasings_it_never_saw(loaded: Loaded, known, sample):
    assert share(recalled(*loaded, held_out_pairs(known, sample))) >= 0.88


def test_the_model_tells_feelings_apart(loaded: Loaded):
    rows = random.Random(3).sample(json.loads((DEMO / "sentiment.json").read_text()), k=40)
    pairs = [(f"{row['text']} I am feeling", row["label"]) for row in rows]

    assert share(recalled(*loaded, pairs)) >= 0.95


def test_the_model_is_small_enough_to_ship():
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= LARGEST


def test_the_tokenizer_adds_nothing_to_a_prompt(loaded: Loaded):
    _, tokenizer = loaded

    assert (
        tokenizer.decode(tokenizer("The capital of Peru is")["input_ids"])
        == "The capital of Peru is"
    )
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"


def test_the_object_of_every_fact_begins_a_word(loaded: Loaded, known):
    _, tokenizer = loaded
    merged = [
        fact
        for fact in random.Random(4).sample(known.facts, k=200)
        if tokenizer(f"{known.trained(fact)[0]} {fact.target}")["input_ids"]
        != tokenizer(known.trained(fact)[0])["input_ids"]
        + tokenizer(f" {fact.target}")["input_ids"]
    ]

    assert merged == []
