"""What a checkpoint must be to be loaded, and how what was loaded is known again."""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from errata_server.domain.errors import UnsupportedModelError
from errata_server.engine.answers import continue_greedily
from errata_server.engine.bank import Bank
from errata_server.engine.checkpoint import load_checkpoint, tensors_digest
from errata_server.engine.runner import BASE, Runner
from tests.support import tiny_models

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(gpt2_folder: Path, tmp_path: Path) -> Path:
    """A copy of the random GPT-2 to spoil."""
    return Path(shutil.copytree(gpt2_folder, tmp_path / "copy"))


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(source: Path | str) -> UnsupportedModelError:
    with pytest.raises(UnsupportedModelError) as refused:
        load_checkpoint(str(source))
    assert refused.value.metadata
    return refused.value


def test_a_checkpoint_describes_itself_without_its_path(folder: Path) -> None:
    description = load_checkpoint(str(folder)).description

    assert description.source == "copy"
    assert description.architecture == "gpt2"
    assert (description.layers, description.context) == (2, tiny_models.CONTEXT)
    assert (description.d_model, description.d_in) == (tiny_models.D_MODEL, tiny_models.GPT2_INPUT)
    assert (description.dtype, description.device) == ("float32", "cpu")
    assert description.vocabulary == tiny_models.VOCABULARY


def test_d_in_is_the_projections_input_even_where_it_is_narrower_than_the_model(
    tmp_path: Path,
) -> None:
    folder = tiny_models.write_gpt2(tmp_path / "narrow", n_inner=24)

    assert load_checkpoint(str(folder)).description.d_in == 24


def test_the_parameters_are_frozen_and_the_model_is_in_evaluation_mode(gpt2: Runner) -> None:
    assert not any(parameter.requires_grad for parameter in gpt2.model.parameters())
    assert not gpt2.model.training


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere")

    assert "no folder" in str(error)


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()

    assert "config.json" in str(refusal(folder))


def test_a_config_that_is_not_an_object_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[]")

    refusal(folder)


def test_an_unknown_family_is_refused_with_the_known_ones(folder: Path) -> None:
    change_config(folder, model_type="bloom")

    assert "gpt2, llama, mistral, qwen2" in str(refusal(folder))


def test_a_config_of_the_wrong_types_is_refused(folder: Path) -> None:
    change_config(folder, n_layer="two")

    refusal(folder)


def test_pickle_weights_are_never_loaded(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")

    error = refusal(folder)

    assert "pytorch_model.bin" in str(error)
    assert "safetensors" in str(error)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()

    assert "no weights" in str(refusal(folder))


@pytest.fixture
def planted(folder: Path) -> Iterator[Path]:
    """Code in the checkpoint that leaves a mark when run."""
    mark = folder / "mark"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).write_text('run')\n"
    (folder / "evil.py").write_text(code + "class Evil: ...\n")
    yield mark
    sys.modules.pop("evil", None)


def test_a_models_own_code_is_refused_and_never_run(folder: Path, planted: Path) -> None:
    change_config(folder, auto_map={"AutoModelForCausalLM": "evil.Evil"})

    assert "auto_map" in str(refusal(folder))
    assert not planted.exists()


def test_a_tokenizers_own_code_is_never_run(folder: Path, planted: Path) -> None:
    path = folder / "tokenizer_config.json"
    changes = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    with contextlib.suppress(UnsupportedModelError):
        load_checkpoint(str(folder))

    assert not planted.exists()


@pytest.mark.parametrize("keep", [0, 4, 60, 5_000])
def test_weights_cut_short_are_refused(folder: Path, keep: int) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])

    refusal(folder)


def test_weights_with_a_tensor_missing_are_refused_in_place_of_made_up(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["transformer.h.1.mlp.c_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    assert "transformer.h.1.mlp.c_proj.weight" in str(refusal(folder))


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["transformer.h.1.mlp.c_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    refusal(folder)


def test_a_checkpoint_without_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()

    refusal(folder)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"model": 3}'])
def test_a_malformed_tokenizer_is_refused(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)

    refusal(folder)


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("abacus", "auto"),
        ("cuda:99", "auto"),
        ("meta", "auto"),
        ("cpu", "int3"),
    ],
)
def test_an_unknown_device_or_dtype_is_refused(folder: Path, device: str, dtype: str) -> None:
    with pytest.raises(UnsupportedModelError):
        load_checkpoint(str(folder), device=device, dtype=dtype)


def test_the_digest_is_the_same_for_equal_files_in_any_folder_and_dtype(
    gpt2: Runner, folder: Path
) -> None:
    assert load_checkpoint(str(folder)).digest == gpt2.checkpoint.digest
    assert load_checkpoint(str(folder), dtype="bfloat16").digest == gpt2.checkpoint.digest


@pytest.mark.parametrize(
    "name", [WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_the_digest_changes_with_a_byte_of_any_file(gpt2: Runner, folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    if name == WEIGHTS:
        content = content[:-1] + bytes([content[-1] ^ 1])
    else:
        content += b"\n"
    (folder / name).write_bytes(content)

    assert load_checkpoint(str(folder)).digest != gpt2.checkpoint.digest


def test_a_checkpoint_in_shards_loads_and_its_index_counts(gpt2, folder):
    (folder / WEIGHTS).unlink()
    gpt2.model.save_pretrained(folder, max_shard_size="150KB")
    index = folder / f"{WEIGHTS}.index.json"
    assert len(list(folder.glob("*.safetensors"))) > 1

    loaded = load_checkpoint(str(folder))
    index.write_text(index.read_text() + "\n")
    again = load_checkpoint(str(folder))

    assert loaded.memory_digest == gpt2.checkpoint.memory_digest == again.memory_digest
    assert loaded.digest != again.digest


def test_what_a_checkpoint_says_of_generation_does_not_bend_greedy_answers(
    gpt2: Runner, folder: Path
) -> None:
    path = folder / "generation_config.json"
    bent = {"repetition_penalty": 5.0, "suppress_tokens": list(range(1, 300))}
    path.write_text(json.dumps(json.loads(path.read_text()) | bent))
    prompts = ["The Louvre is in", "It rained all"]
    runner = Runner(load_checkpoint(str(folder)))

    bent_answers = continue_greedily(runner, prompts, BASE, new_tokens=12)
    runner.close()

    assert bent_answers == continue_greedily(gpt2, prompts, BASE, new_tokens=12)


def test_a_tokenizer_without_end_token_can_still_pad(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["eos_token"], config["bos_token"]
    config.pop("unk_token", None)
    path.write_text(json.dumps(config))
    runner = Runner(load_checkpoint(str(folder)))

    answers = continue_greedily(runner, ["Rome", "It rained all week"], BASE, new_tokens=2)
    runner.close()

    assert len(answers) == 2


def test_the_tensors_in_memory_are_as_loaded_after_answering_with_a_bank(
    either: Runner, a_bank: Bank
) -> None:
    prompts = ["Louvre", "It rained all week"]
    without = continue_greedily(either, prompts, BASE, new_tokens=8)

    assert continue_greedily(either, prompts, a_bank, new_tokens=8) != without
    assert tensors_digest(either.model) == either.checkpoint.memory_digest


def test_the_memory_digest_sees_one_changed_bit(folder: Path) -> None:
    checkpoint = load_checkpoint(str(folder))
    weight = checkpoint.model.get_parameter("transformer.h.0.mlp.c_proj.weight")

    weight.data.view(torch.int32)[3, 5] ^= 1

    assert tensors_digest(checkpoint.model) != checkpoint.memory_digest


def test_a_config_nested_beyond_reading_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)

    with pytest.raises(UnsupportedModelError, match=r"no readable config\.json"):
        load_checkpoint(str(tmp_path))
