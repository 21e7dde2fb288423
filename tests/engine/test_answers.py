"""Answers: the same whether asked alone, in a batch, as a stream, or beside other threads."""

import math
import threading
import time
from collections import Counter
from collections.abc import Generator

import pytest
import torch

from errata_server.domain.errors import PromptTooLongError
from errata_server.domain.generation import GenerationOptions
from errata_server.engine import answers, recall
from errata_server.engine.answers import (
    GumbelSampling,
    continue_greedily,
    in_batches,
    next_token_log_probabilities,
    perplexity,
    score,
    stream,
)
from errata_server.engine.architecture import projection
from errata_server.engine.hooks import rewriting
from errata_server.engine.runner import BASE
from tests.support import tiny_models
from tests.support.tiny_models import CITIES

GREEDY = GenerationOptions()
SUBJECTS = [f"{name} is" for name in (*CITIES, "It", "東京")]
PROMPTS = ("Louvre", "It rained all week. In the end", "You can visit Big Ben in", "東京 is")


def greedy_by_hand(runner, prompt, bank, tokens):
    """One unpadded pass a token, no cache."""
    ids = runner.tokens.encode(prompt)
    start = len(ids)
    for _ in range(tokens):
        following = int(runner.logits(runner.tokens.pad([ids]), bank)[0, -1].argmax())
        if following == runner.checkpoint.tokenizer.eos_token_id:
            break
        ids = [*ids, following]
    return runner.tokens.decode(ids[start:])


def text_of(chunks):
    return "".join(chunk.text for chunk in chunks)


def test_batched_greedy_answers_are_those_of_each_prompt_alone(either, a_bank):
    for bank in (BASE, a_bank):
        batched = continue_greedily(either, PROMPTS, bank, new_tokens=10)

        assert batched == [greedy_by_hand(either, p, bank, 10) for p in PROMPTS]


def test_a_trained_model_stops_at_its_end_token(trained):
    prompts = ["Louvre is in the city of", "Colosseum can be found in"]

    assert continue_greedily(trained, prompts, BASE, new_tokens=12) == [" Paris.", " Rome."]


def test_more_prompts_than_rows_keep_their_order(gpt2, monkeypatch):
    whole = continue_greedily(gpt2, PROMPTS * 2, BASE, new_tokens=3)
    monkeypatch.setattr(answers, "ROWS", 3)

    assert continue_greedily(gpt2, PROMPTS * 2, BASE, new_tokens=3) == whole


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ([], []),
        ([3, 3, 3, 3], [[3, 3, 3], [3]]),
        ([1] * 9, [[1] * 4, [1] * 4, [1]]),
        ([2, 2, 6, 2], [[2, 2], [6], [2]]),
        ([99, 1, 99], [[99], [1], [99]]),
    ],
)
def test_a_batch_is_bounded_in_rows_and_in_padded_tokens(lengths, batches, monkeypatch):
    monkeypatch.setattr(answers, "ROWS", 4)
    monkeypatch.setattr(answers, "TOKENS", 9)

    assert [list(batch) for batch in in_batches(lengths, int)] == batches


def test_no_prompts_have_no_answers(gpt2):
    assert continue_greedily(gpt2, [], BASE, new_tokens=3) == []


def test_a_prompt_without_room_is_refused_before_anything_is_generated(gpt2):
    with pytest.raises(PromptTooLongError):
        continue_greedily(gpt2, ["Rome"], BASE, new_tokens=tiny_models.CONTEXT)
    with pytest.raises(PromptTooLongError):
        next(stream(gpt2, "Rome", GenerationOptions(max_new_tokens=tiny_models.CONTEXT), BASE))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_stream_adds_up_to_the_greedy_answer(either, a_bank, prompt):
    options = GenerationOptions(max_new_tokens=24)

    chunks = list(stream(either, prompt, options, a_bank))

    assert text_of(chunks) == continue_greedily(either, [prompt], a_bank, new_tokens=24)[0]
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [""] * (len(chunks) - 1)
    assert [chunk.tokens for chunk in chunks] == sorted(chunk.tokens for chunk in chunks)


def test_a_stream_says_whether_length_or_the_model_ended_it(trained, gpt2):
    (*_, whole) = stream(trained, "Louvre is in the city of", GenerationOptions(), BASE)
    (*_, cut) = stream(gpt2, "Louvre", GenerationOptions(max_new_tokens=3), BASE)

    assert whole.finish_reason == "stop"
    assert (cut.finish_reason, cut.tokens) == ("length", 3)


def test_a_stop_text_ends_the_stream_behind_its_first_mention(trained):
    prompt = "It rained all week. In the end we"
    whole = text_of(stream(trained, prompt, GenerationOptions(max_new_tokens=24), BASE))
    assert "bridge" in whole
    options = GenerationOptions(max_new_tokens=24, stop=("never said", "bridge", "went"))

    chunks = list(stream(trained, prompt, options, BASE))

    assert text_of(chunks) == whole[: whole.index("bridge") + len("bridge")]
    assert chunks[-1].finish_reason == "stop"


def test_closing_a_stream_stops_the_model(gpt2):
    passes = []
    module = projection(gpt2.model, gpt2.checkpoint.projection_path(0))

    def count(_, output):
        passes.append(1)
        return output

    with rewriting(module, count):
        chunks = stream(gpt2, "Louvre", GenerationOptions(max_new_tokens=80), BASE)
        assert isinstance(chunks, Generator)
        next(chunks)
        chunks.close()
        for thread in threading.enumerate():
            if thread.name == "generate":
                thread.join(20)

    assert len(passes) < 40


def test_an_error_of_the_model_reaches_the_reader(gpt2):
    def fail(_, output):
        raise ZeroDivisionError("inside")

    module = projection(gpt2.model, gpt2.checkpoint.projection_path(0))
    with rewriting(module, fail), pytest.raises(ZeroDivisionError, match="inside"):
        list(stream(gpt2, "Louvre", GenerationOptions(), BASE))


@pytest.fixture
def saying(gpt2):
    """Make the model say given tokens, whatever it thinks."""

    def say(text):
        script = [*gpt2.tokens.continuation(text), gpt2.checkpoint.tokenizer.eos_token_id]
        said = iter(script)

        def after(module, arguments, output):
            forced = torch.full_like(output, -1e9)
            forced[:, -1, next(said)] = 0.0
            return forced

        handles.append(gpt2.model.get_output_embeddings().register_forward_hook(after))
        return len(script) - 1

    handles: list[torch.utils.hooks.RemovableHandle] = []
    yield say
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("text", [" 東京 ñ!", "ñ", " naïve Zoë 🗼 end"])
def test_a_character_split_over_tokens_arrives_whole(gpt2, saying, text):
    tokens = saying(text)
    assert tokens > len(text.strip())

    chunks = list(stream(gpt2, "Rome", GenerationOptions(max_new_tokens=60), BASE))

    assert text_of(chunks) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in chunk.text for chunk in chunks)
    assert chunks[-1].tokens == tokens


def test_a_character_that_never_completes_is_shown_as_broken_and_not_dropped(gpt2, saying):
    tokens = saying(" a東")

    chunks = list(stream(gpt2, "Rome", GenerationOptions(max_new_tokens=tokens - 1), BASE))

    assert text_of(chunks).startswith(" a\N{REPLACEMENT CHARACTER}")
    assert chunks[-1].finish_reason == "length"


def sample(runner, seed, **changes):
    options = GenerationOptions(max_new_tokens=12, temperature=1.0, seed=seed, **changes)
    return text_of(stream(runner, "Louvre", options, BASE))


def test_a_seed_gives_the_same_sample_beside_other_threads_and_global_noise(gpt2):
    alone = [sample(gpt2, seed) for seed in range(4)]
    assert len(set(alone)) == 4
    results = {}

    def draw(seed):
        torch.manual_seed(seed + 100)
        results[seed] = [sample(gpt2, seed) for _ in range(3)]

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert results == {seed: [text] * 3 for seed, text in enumerate(alone)}


def test_sampling_leaves_torchs_global_generator_alone(gpt2):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)

    sample(gpt2, 1)

    assert torch.equal(torch.rand(3), expected)


def test_one_candidate_is_the_greedy_choice_whatever_the_seed(gpt2):
    greedy = continue_greedily(gpt2, ["Louvre"], BASE, new_tokens=12)[0]

    assert {sample(gpt2, seed, top_k=1) for seed in range(3)} == {greedy}


def test_a_low_temperature_is_close_to_greedy(trained):
    options = GenerationOptions(max_new_tokens=3, temperature=0.01, seed=5)

    assert text_of(stream(trained, "Prado is in the city of", options, BASE)) == " Madrid."


def test_gumbel_samples_follow_the_distribution():
    probabilities = torch.tensor([[0.6, 0.3, 0.1, 0.0]])
    sampling = GumbelSampling(seed=3)
    scores = probabilities.log()

    drawn = Counter(int(sampling(torch.zeros(1, 1), scores).argmax()) for _ in range(4000))

    assert drawn[3] == 0
    for token, probability in enumerate((0.6, 0.3, 0.1)):
        assert drawn[token] / 4000 == pytest.approx(probability, abs=0.03)


def naive_score(runner, prompt, continuation, bank):
    ids = runner.tokens.encode(prompt)
    each, greedy = [], True
    for token in runner.tokens.continuation(continuation):
        logits = runner.logits(runner.tokens.pad([ids]), bank)[0, -1].double()
        each.append(float(logits.log_softmax(-1)[token]))
        greedy &= int(logits.argmax()) == token
        ids = [*ids, token]
    return each, greedy


def test_a_score_is_the_naive_sum_of_log_probabilities(either, a_bank):
    continuations = [" Paris", "Paris", " Rome, they say", "", "東"]

    for bank in (BASE, a_bank):
        scored = score(either, "Louvre", continuations, bank)

        for continuation, got in zip(continuations, scored.scores, strict=True):
            each, greedy = naive_score(either, "Louvre", continuation, bank)
            assert got.continuation == continuation
            assert got.token_log_probabilities == pytest.approx(each, abs=1e-4)
            assert got.log_probability == pytest.approx(sum(each), abs=1e-4)
            assert got.is_greedy == greedy
            assert len(got.tokens) == len(each)


def test_the_greedy_continuation_is_known_as_such(trained):
    scored = score(trained, "Prado is in the city of", [" Madrid", " Rome"], BASE).scores

    assert [one.is_greedy for one in scored] == [True, False]
    assert scored[0].log_probability > math.log(0.5)


def test_a_continuation_that_does_not_fit_is_refused(gpt2):
    with pytest.raises(PromptTooLongError):
        score(gpt2, "Rome", [" Rome" * tiny_models.CONTEXT], BASE)


def test_the_logits_digest_is_equal_exactly_where_no_bit_differs(either, a_bank):
    def digest(prompt, bank):
        return score(either, prompt, [" Paris"], bank).logits_digest

    assert digest("Louvre", BASE) == digest("Louvre", BASE)
    assert digest("It rained", a_bank) == digest("It rained", BASE)
    assert digest("Louvre", a_bank) != digest("Louvre", BASE)
    assert digest("Louvre", BASE) == score(either, "Louvre", [], BASE).logits_digest


def test_the_next_tokens_log_probabilities_are_those_of_each_prompt_alone(either, monkeypatch):
    monkeypatch.setattr(answers, "ROWS", 3)
    rows = next_token_log_probabilities(either, PROMPTS, BASE)

    for row, prompt in zip(rows, PROMPTS, strict=True):
        ids = either.tokens.encode(prompt)
        alone = either.logits(either.tokens.pad([ids]))[0, -1].log_softmax(-1)
        assert torch.allclose(row, alone, atol=1e-4)


def test_perplexity_is_the_naive_one(either, a_bank, monkeypatch):
    monkeypatch.setattr(answers, "ROWS", 3)
    long = " ".join(tiny_models.PROSE * 2)
    texts = [*tiny_models.PROSE, "Louvre", "", long]
    total, count = 0.0, 0
    for text in texts:
        ids = either.tokens.encode(text)[: tiny_models.CONTEXT]
        if len(ids) < 2:
            continue
        logits = either.logits(either.tokens.pad([ids]), a_bank)[0].double().log_softmax(-1)
        total -= sum(float(logits[i, token]) for i, token in enumerate(ids[1:]))
        count += len(ids) - 1

    assert len(either.tokens.encode(long)) > tiny_models.CONTEXT
    assert perplexity(either, texts, a_bank) == pytest.approx(math.exp(total / count), rel=1e-4)


def test_a_perplexity_lets_others_have_the_model_every_few_texts(gpt2, monkeypatch):
    texts = [f"They say {word} is old." for word in "abcdefghij"]
    length = max(len(gpt2.tokens.encode(text)) for text in texts)
    for room in (answers, recall):
        monkeypatch.setattr(room, "SCORED_TOKENS", 4 * length)
    rows = []
    module = projection(gpt2.model, gpt2.checkpoint.projection_path(0))

    def count(_, output):
        rows.append(len(output))
        return output

    with rewriting(module, count):
        perplexity(gpt2, texts, BASE)
        recall.Recall(gpt2).perplexity(texts, BASE)

    assert rows == [4, 4, 2] * 2


def test_text_without_a_second_token_has_no_perplexity(gpt2):
    assert math.isnan(perplexity(gpt2, [""], BASE))


def test_a_slow_reader_does_not_hold_up_another_stream(gpt2):
    slow = stream(gpt2, "Louvre", GenerationOptions(max_new_tokens=60), BASE)
    next(slow)
    began = time.monotonic()

    list(stream(gpt2, "Rome", GenerationOptions(max_new_tokens=5), BASE))

    assert time.monotonic() - began < 30
    assert text_of(slow)


def test_tokens_somebody_waits_for_go_before_what_a_proposal_asks(gpt2):
    one = GenerationOptions(max_new_tokens=1)
    calls = (
        lambda: continue_greedily(gpt2, ["Rome"], BASE, new_tokens=1),
        lambda: list(answers.stream(gpt2, "Rome", one, BASE)),
        lambda: answers.score(gpt2, "Rome", [" is"], BASE),
    )
    entered, opened, order = threading.Event(), threading.Event(), []

    def hold():
        entered.set()
        assert opened.wait(10)

    first_block = gpt2.model.get_submodule("transformer.h.0")
    handle = first_block.register_forward_pre_hook(lambda *_: order.append(gpt2.lane._in_a_row))
    threads = [threading.Thread(target=gpt2.lane.run, args=(hold,))]
    threads[0].start()
    assert entered.wait(10)
    for call in calls:
        threads.append(threading.Thread(target=call))
        threads[-1].start()
    while gpt2.lane._executor._work_queue.qsize() < len(calls):
        time.sleep(0.002)

    opened.set()
    for thread in threads:
        thread.join(10)
    handle.remove()

    assert order[:2] == [1, 2]  # the score's second pass is asked for once it has the first
    assert sorted(order) in ([0, 1, 1, 2], [0, 1, 2, 3])
