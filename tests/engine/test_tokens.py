"""Where a subject ends, what a target is made of, and padded batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from errata_server.domain.errors import (
    InvalidFactError,
    PromptTooLongError,
    SubjectNotFoundError,
)
from errata_server.engine.runner import Runner
from errata_server.engine.tokens import Tokens, join
from tests.support import tiny_models


def spelled(runner: Runner, text: str, subject: str) -> tuple[str, str]:
    """The text up to the token found as the subject's last, and what that token adds to it."""
    ids = runner.tokens.encode(text)
    index = len(ids) + runner.tokens.subject_end(text, subject)
    before, upto = runner.tokens.decode(ids[:index]), runner.tokens.decode(ids[: index + 1])
    return upto, upto.removeprefix(before)


@pytest.mark.parametrize(
    ("text", "subject", "upto"),
    [
        ("Space Needle is in the city of", "Space Needle", "Space Needle"),
        ("You can visit the Space Needle in", "Space Needle", "You can visit the Space Needle"),
        ("Space Needle", "Space Needle", "Space Needle"),
        ("We saw Xyloquist today", "Xyloquist", "We saw Xyloquist"),
        ("Café Gijón is a place", "Café Gijón", "Café Gijón"),
        ("They love 東京 in spring", "東京", "They love 東京"),
        ("ñ", "ñ", "ñ"),
        ("In (Rome) we", "Rome", "In (Rome"),
    ],
)
def test_the_subjects_last_token_completes_the_subject(either, text, subject, upto):
    found, piece = spelled(either, text, subject)

    assert found == upto
    assert piece


def test_a_subject_named_twice_is_found_at_its_last_mention(either):
    text = "Rome, they say, is old. Rome was not built in a day"

    found, _ = spelled(either, text, "Rome")

    assert found == "Rome, they say, is old. Rome"


def test_the_position_counts_from_the_end_so_that_left_padding_does_not_move_it(gpt2):
    text = "You can visit Big Ben in"

    end = gpt2.tokens.subject_end(text, "Big Ben")
    batch = gpt2.tokens.pad([gpt2.tokens.encode(text), gpt2.tokens.encode(text * 2)])

    assert end < 0
    assert int(batch.ids[0, end]) == gpt2.tokens.encode(text)[end]


WORDS = st.text(alphabet="abcR é東\N{COMBINING ACUTE ACCENT}.,1", max_size=12)


@settings(max_examples=40)
@given(before=WORDS, subject=WORDS.filter(lambda s: s and s == s.strip()), after=WORDS)
def test_the_token_found_is_the_first_that_completes_the_subject(gpt2, before, subject, after):
    text = f"{before} {subject} {after}"
    ids = gpt2.tokens.encode(text)

    index = len(ids) + gpt2.tokens.subject_end(text, subject)

    last = len(text[: text.rfind(subject) + len(subject)].encode())
    tokenizer = gpt2.checkpoint.tokenizer
    widths = [len(token) for token in tokenizer.convert_ids_to_tokens(ids)]  # one sign a byte
    assert sum(widths[:index]) < last <= sum(widths[: index + 1])


def test_a_subject_that_is_not_named_is_refused(either):
    with pytest.raises(SubjectNotFoundError) as refusal:
        either.tokens.subject_end("The Louvre is in", "Prado")

    assert refusal.value.metadata == {"prompt": "The Louvre is in", "subject": "Prado"}


def test_a_target_continues_a_prompt_after_a_space(either):
    prompt = "Louvre can be found in"
    whole = either.tokens.encode(f"{prompt} Paris")

    assert either.tokens.encode(prompt) + either.tokens.target("Paris") == whole


def test_a_continuation_is_taken_exactly_as_written(either):
    assert either.tokens.decode(either.tokens.continuation("  Paris ")) == "  Paris "


@pytest.fixture
def beginning_afresh():
    """Tokens of a tokenizer that puts a space before every text, as Mistral's first ones do."""
    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"])
    inner.train_from_iterator(["x x", *tiny_models.PROSE, *tiny_models.sentences()], trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    return Tokens(tokenizer, tiny_models.CONTEXT, torch.device("cpu"))


def test_a_continuation_gets_no_space_that_the_tokenizer_puts_before_a_text(beginning_afresh):
    tokens, prompt = beginning_afresh, "Louvre can be found in"

    alone = tokens.tokenizer(" Paris", add_special_tokens=False)["input_ids"]
    assert tokens.tokenizer.convert_ids_to_tokens(alone[:1]) == ["▁"]
    assert tokens.encode(prompt) + tokens.target("Paris") == tokens.encode(f"{prompt} Paris")
    assert tokens.continuation(" Rome, they say") == tokens.encode("x Rome, they say")[2:]
    assert tokens.tokenizer.convert_ids_to_tokens(tokens.continuation(".")) == ["."]


def test_a_target_with_a_special_token_is_refused(either):
    with pytest.raises(InvalidFactError) as refusal:
        either.tokens.target(f"Paris{tiny_models.END}")

    assert refusal.value.metadata["field"] == "target"


def test_padding_is_on_the_left_and_positions_count_from_each_texts_start(gpt2):
    batch = gpt2.tokens.pad([[7, 8], [4, 5, 6, 9], [3]])

    assert batch.ids[:, -1].tolist() == [8, 9, 3]
    assert batch.mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]
    assert batch.positions.tolist() == [[0, 0, 0, 1], [0, 1, 2, 3], [0, 0, 0, 0]]
    assert torch.equal(batch.ids[0, 2:], torch.tensor([7, 8]))


def test_a_prompt_may_fill_the_context_and_not_exceed_it(gpt2):
    word = gpt2.tokens.encode(" Rome")
    text = " Rome" * (tiny_models.CONTEXT // len(word))
    length = len(gpt2.tokens.encode(text))

    assert gpt2.tokens.fit(text, room=tiny_models.CONTEXT - length) == word * (length // len(word))
    with pytest.raises(PromptTooLongError) as refusal:
        gpt2.tokens.fit(text, room=tiny_models.CONTEXT - length + 1)
    assert refusal.value.metadata["tokens"] == str(length)
    assert refusal.value.metadata["context"] == str(tiny_models.CONTEXT)


def test_a_prompt_without_tokens_is_refused(gpt2):
    with pytest.raises(PromptTooLongError, match="no tokens"):
        gpt2.tokens.fit("")


def test_a_prefix_is_joined_by_one_space_and_no_prefix_by_none():
    assert join("They say", "Rome is") == "They say Rome is"
    assert join("", "Rome is") == "Rome is"


@pytest.mark.parametrize(
    ("text", "subject", "named"),
    [
        ("Big Ben is in London", "Big Ben", "Big Ben"),
        ("They saw Big Ben", "Big Ben", " Big Ben"),
        ("Big Ben, and Big Ben again", "Big Ben", "Big Ben Big Ben"),
        ("Zoë went to 東京 alone", "東京", "東京"),
    ],
    ids=["at the start", "at the end", "twice", "characters of several tokens"],
)
def test_all_tokens_of_all_mentions_are_found(either, text, subject, named):
    ids = either.tokens.encode(text)
    found = either.tokens.mentions(text, subject)

    assert found == sorted(set(found))
    assert either.tokens.decode([ids[index] for index in found]) == named


def test_a_subject_that_is_nowhere_has_no_mentions(either):
    with pytest.raises(SubjectNotFoundError, match="Prado"):
        either.tokens.mentions("Big Ben is in London", "Prado")


def test_a_picture_shows_special_tokens_by_name_and_parts_of_characters_as_such(either):
    ids = either.tokens.encode("東")

    pieces = [either.tokens.piece(token) for token in ids]
    assert len(ids) > 1
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert either.tokens.piece(0) == tiny_models.END
