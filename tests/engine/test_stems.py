"""Stems: what prompts share is run once and changes nothing of what follows them."""

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from errata_server.domain.generation import GenerationOptions
from errata_server.engine import stems
from errata_server.engine.answers import continue_rows
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.runner import BASE, Runner
from errata_server.engine.stems import begin, stems_of
from tests.support import tiny_models

GREEDY = GenerationOptions()
SAMPLED = GenerationOptions(temperature=1.0, top_k=5, seed=4)
SAID = "They say the Louvre is in the city of Rome. "
OTHER = "In the end we wrote a page on Big Ben and then, at last, "
TAILS = ("Prado is in the city of", "Big Ben", "Louvre can be found in", "It rained all week")
PROMPTS = (*(SAID + tail for tail in TAILS), "Prado", *(OTHER + tail for tail in TAILS), SAID)


def encoded(runner, prompts=PROMPTS):
    return [runner.tokens.encode(prompt.strip()) for prompt in prompts]


@pytest.mark.parametrize(
    ("rows", "lengths"),
    [
        ([], []),
        (["abc"], [0]),
        (["abcd", "abce", "xyz", "abcdx"], [3, 3, 0, 3]),
        (["ab", "abx", "aby"], [0, 2, 2]),
        (["abc", "abc", "abcd"], [2, 2, 2]),
        (["abcdx", "qrsy", "abcdy", "qrsx"], [4, 3, 4, 3]),
    ],
)
def test_a_stem_is_what_rows_share_but_for_a_token(rows, lengths, monkeypatch):
    monkeypatch.setattr(stems, "SHORTEST", 2)

    found = stems_of([[ord(letter) for letter in row] for row in rows])

    assert found == lengths


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_rows_with_stems_are_continued_as_they_would_be_alone(either, a_bank, options):
    rows = encoded(either)
    rooms = [7, 2, 7, 5, 7, 7, 3, 7, 7, 4]
    for bank in (BASE, a_bank):
        with either.serving(bank):
            batch, cache = begin(either, rows, most=1_000)
        alone = [
            continue_rows(either, [row], bank, rooms=[room], options=options)[0]
            for row, room in zip(rows, rooms, strict=True)
        ]

        assert cache is not None
        assert batch.ids.shape[1] - cache.get_seq_length() < max(map(len, rows)) / 2
        assert batch.mask.sum(dim=1).tolist() == [len(row) for row in rows]
        assert continue_rows(either, rows, bank, rooms=rooms, options=options) == alone


@pytest.mark.parametrize(
    "prompts",
    [TAILS, PROMPTS[:1], (*PROMPTS[:2], *tiny_models.PROSE)],
    ids=["few", "one", "little"],
)
def test_what_saves_little_is_run_as_it_is(either, prompts):
    batch, cache = begin(either, encoded(either, prompts), most=1_000)

    assert cache is None
    assert torch.equal(batch.ids, either.tokens.pad(encoded(either, prompts)).ids)


def test_stems_that_are_more_than_a_step_are_not_run(either):
    _, cache = begin(either, encoded(either), most=9)

    assert cache is None


def test_a_window_of_attention_is_not_led_astray(tmp_path):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=tiny_models.VOCABULARY,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.25,
        sliding_window=20,
    )
    MistralForCausalLM(config).save_pretrained(tmp_path)
    tiny_models.llama_tokenizer().save_pretrained(tmp_path)
    runner = Runner(load_checkpoint(str(tmp_path)))
    rows = encoded(runner)

    said = continue_rows(runner, rows, BASE, rooms=[9] * len(rows), options=GREEDY)

    assert max(map(len, rows)) > 20
    assert said == [
        continue_rows(runner, [row], BASE, rooms=[9], options=GREEDY)[0] for row in rows
    ]
    runner.close()
