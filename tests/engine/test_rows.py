"""Rows that are continued together: each as it would be alone, and gone when it has ended."""

from contextlib import contextmanager

import pytest
import torch

from errata_server.domain.generation import GenerationOptions
from errata_server.domain.patches import Composition
from errata_server.engine import answers
from errata_server.engine.answers import continue_rows
from errata_server.engine.bank import compose
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.runner import BASE, Runner
from tests.support import tiny_models
from tests.support.tiny_models import CITIES

GREEDY = GenerationOptions()
SUBJECTS = [f"{name} is" for name in (*CITIES, "It", "東京")]
PROMPTS = ("Louvre", "It rained all week. In the end", "You can visit Big Ben in", "東京 is")
SAMPLED = GenerationOptions(temperature=1.0, top_k=5, seed=4)


@pytest.fixture(params=["gpt2_folder", "llama_folder"])
def of_a_family(request):
    """A random model that nothing else uses."""
    runner = Runner(load_checkpoint(str(request.getfixturevalue(request.param))))
    yield runner
    runner.close()


def rows_that_end(runner, options):
    """Rows of which half, all the same, are the first to end, and the model's end of text."""
    rows = [runner.tokens.encode(prompt) for prompt in (*[SUBJECTS[0]] * 8, *SUBJECTS[1:8])]
    said = continue_rows(runner, rows, BASE, rooms=[24] * len(rows), options=options)
    end = said[0][3]
    assert end not in said[0][:3]
    tokenizer = runner.checkpoint.tokenizer
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    return rows, end


def passes_of(said, end):
    """Rows of every pass, by what was said: those go on together of whom half have not ended."""
    going, found = said, []
    for step in range(1, max(map(len, said)) + 1):
        found.append(len(going))
        left = [ids for ids in going if end not in ids[:step]]
        if len(going) >= answers.MANY and len(left) <= len(going) / 2:
            going = left
    return found


def rows_of_passes(runner):
    """Rows of every forward pass inside the block."""
    return of_passes(runner, len)


def sizes_of_passes(runner):
    """Tokens of every forward pass inside the block."""
    return of_passes(runner, torch.numel)


@contextmanager
def of_passes(runner, noted):
    """What is ``noted`` of the ids of every forward pass inside the block."""
    found = []

    def note(_module, _arguments, named):
        found.append(noted(named["input_ids"]))

    handle = runner.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


@pytest.mark.parametrize("options", [GREEDY, SAMPLED])
def test_rows_that_have_ended_leave_and_change_nothing_of_the_others(of_a_family, options):
    runner = of_a_family
    rows, end = rows_that_end(runner, options)
    patches = [tiny_models.simple_patch(runner, name, seed=1) for name in ("Louvre", "Big Ben")]
    for bank in (BASE, compose(patches, Composition.GUARDED, runner.device)):
        alone = [continue_rows(runner, [row], bank, rooms=[24], options=options)[0] for row in rows]

        with rows_of_passes(runner) as passes:
            said = continue_rows(runner, rows, bank, rooms=[24] * len(rows), options=options)

        assert said == alone
        assert passes == passes_of(said, end)
        assert min(passes) < len(rows) or bank is not BASE


def test_few_rows_stay_together_until_the_last_has_ended(of_a_family):
    runner = of_a_family
    rows, _ = rows_that_end(runner, GREEDY)
    rows = rows[-answers.MANY + 1 :]

    with rows_of_passes(runner) as passes:
        said = continue_rows(runner, rows, BASE, rooms=[24] * len(rows), options=GREEDY)

    assert passes == [len(rows)] * max(len(ids) for ids in said)


def test_a_row_leaves_when_its_room_is_full(of_a_family):
    runner = of_a_family
    rows = [runner.tokens.encode(prompt) for prompt in (*SUBJECTS, *SUBJECTS)][:12]
    rooms = [3] * 7 + [5, 9, 9, 5, 1]
    alone = [
        continue_rows(runner, [row], BASE, rooms=[room], options=GREEDY)[0]
        for row, room in zip(rows, rooms, strict=True)
    ]

    with rows_of_passes(runner) as passes:
        said = continue_rows(runner, rows, BASE, rooms=rooms, options=GREEDY)

    assert said == alone
    assert passes == [12] * 3 + [4] * 6


@pytest.mark.parametrize("others", [2, 9])
def test_a_row_near_the_context_s_end_does_not_go_on_beyond_it_with_the_others(either, others):
    context = either.tokens.context
    long = either.tokens.encode(" ".join(tiny_models.PROSE * 9))[: context - 2]
    rows = [*(either.tokens.encode(prompt) for prompt in SUBJECTS[:others]), long]
    rooms = [12] * others + [2]

    said = continue_rows(either, rows, BASE, rooms=rooms, options=GREEDY)

    assert len(long) == context - 2
    assert said == [
        continue_rows(either, [row], BASE, rooms=[room], options=GREEDY)[0]
        for row, room in zip(rows, rooms, strict=True)
    ]


@pytest.mark.parametrize("most", [1, 13, 40])
def test_a_prompt_in_parts_is_answered_as_in_one(either, a_bank, monkeypatch, most):
    rows = [either.tokens.encode(prompt) for prompt in (*PROMPTS, tiny_models.PROSE[0])]
    whole = continue_rows(either, rows, a_bank, rooms=[6] * len(rows), options=GREEDY)
    monkeypatch.setattr(answers, "TOKENS", most)

    with sizes_of_passes(either) as sizes:
        parts = continue_rows(either, rows, a_bank, rooms=[6] * len(rows), options=GREEDY)

    assert parts == whole
    assert max(sizes) <= max(most, len(rows))
    assert len(sizes) > 6


def test_a_tokenizer_without_an_end_token_answers_to_the_last(llama_folder):
    runner = Runner(load_checkpoint(str(llama_folder)))
    runner.checkpoint.tokenizer.eos_token = None

    rows = [runner.tokens.encode(prompt) for prompt in SUBJECTS]
    said = continue_rows(runner, rows, BASE, rooms=[5] * len(rows), options=GREEDY)

    assert [len(ids) for ids in said] == [5] * len(rows)
    runner.close()
