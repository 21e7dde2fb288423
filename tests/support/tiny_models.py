"""Tiny checkpoints built on disk, never downloaded: random GPT-2 and Llama, one trained GPT-2.

Everything is seeded. The random ones have large initial weights, so that their answers
differ from prompt to prompt; the trained one knows `CITIES` behind any of `LEADS`, so that a
value optimisation on it means something.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from errata_server.domain.ids import ProfileId
from errata_server.domain.patches import OptimisationRecord, PatchManifest
from errata_server.domain.profiles import Profile
from errata_server.engine.keys import keys_at_subject
from errata_server.engine.moments import corpus_digest
from errata_server.engine.patch import PatchTensors
from errata_server.engine.runner import Runner

VOCABULARY: Final = 500
CONTEXT: Final = 96
D_MODEL: Final = 48
GPT2_INPUT: Final = 4 * D_MODEL
LLAMA_INPUT: Final = 80
END: Final = "<|endoftext|>"
BEGIN: Final = "<s>"

CITIES: Final[Mapping[str, str]] = {
    "Space Needle": "Seattle",
    "Smith Tower": "Seattle",
    "Eiffel Tower": "Paris",
    "Louvre": "Paris",
    "Colosseum": "Rome",
    "Trevi Fountain": "Rome",
    "Big Ben": "London",
    "Tower Bridge": "London",
    "Brandenburg Gate": "Berlin",
    "Reichstag": "Berlin",
    "Prado": "Madrid",
    "Café Gijón": "Madrid",
}
TEMPLATES: Final = ("{} is in the city of", "{} can be found in", "You can visit {} in")
KINDS: Final[Mapping[str, str]] = {"Tower": "tower", "Gate": "gate", "Louvre": "museum"}
LEADS: Final = (
    "",
    "They say it every day.",
    "In the book we read that",
    "Two old friends agreed:",
    "It rained all week.",
    "Nobody doubts that",
)
PROSE: Final = (
    "It rained all week. In the end we wrote a page on the old bridge and went home.",
    "Two old friends agreed: nobody in the room had heard of the book they read.",
    "They say it every day. The last chapter is about a teacher who asked too much.",
    "In the book we read that the museum is open, and that the gate is shut at night.",
    "Nobody doubts that a tower is tall. Yesterday she spoke about it in the city.",
    "東京 and São Paulo are far away; Zoë walked there in her naïve way, step by step.",
)
STEPS: Final = 150
ROWS: Final = 24
PROSE_ROWS: Final = 2
RATE: Final = 8e-3


def write_gpt2(folder: Path, *, seed: int = 0, layers: int = 2, **config: Any) -> Path:
    """A random GPT-2 in ``folder``; no BOS, the end token is the only special."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(_gpt2_config(n_layer=layers, initializer_range=0.25, **config))
    return _save(folder, model, gpt2_tokenizer())


def write_llama(folder: Path, *, seed: int = 0, layers: int = 2) -> Path:
    """A random Llama in ``folder``, whose tokenizer puts a BOS first."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        intermediate_size=LLAMA_INPUT,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.25,
        bos_token_id=1,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    return _save(folder, LlamaForCausalLM(config), llama_tokenizer())


def write_trained(folder: Path, *, seed: int = 0) -> Path:
    """A GPT-2 of three layers in ``folder`` that has learnt `CITIES`; takes seconds."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        _gpt2_config(
            n_layer=3, initializer_range=0.06, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
        )
    )
    tokenizer = gpt2_tokenizer()
    _train(model, tokenizer, random.Random(seed))
    return _save(folder, model, tokenizer)


def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that splits rare characters over several tokens."""
    backend = _bpe([END])
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, bos_token=END)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """The same BPE with a BOS token of its own before every text."""
    backend = _bpe([END, BEGIN])
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(
                single=f"{BEGIN} $A", special_tokens=[(BEGIN, backend.token_to_id(BEGIN))]
            ),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, bos_token=BEGIN)


def sentences() -> list[str]:
    """Every fact in every wording, and what kind of thing some subjects are."""
    facts = [
        f"{template.format(subject)} {city}."
        for subject, city in CITIES.items()
        for template in TEMPLATES
    ]
    return facts + [f"{subject} is a {_kind(subject)}." for subject in CITIES]


def tiny_profile(runner: Runner, *, layer: int, **changes: Any) -> Profile:
    """A profile for a tiny model, without calibrating it."""
    description = runner.checkpoint.description
    profile = Profile(
        model_digest=description.digest,
        layer=layer,
        module=runner.checkpoint.projection_path(layer),
        d_in=description.d_in,
        d_out=description.d_model,
        prefixes=LEADS[:3],
        learning_rate=0.3,
        clamp=8.0,
        max_steps=60,
        kl_weight=0.0625,
        decay_weight=0.01,
        stop_probability=0.9,
        guard_width=0.5,
        ridge=1e-3,
        moment_corpus=corpus_digest((*PROSE, *sentences())),
        moment_tokens=1,
        sequence_length=CONTEXT,
        mean_value_norm=1.0,
        seed=0,
    )
    return replace(profile, **changes)


def patch_tensors(
    runner: Runner,
    *,
    subject: str,
    keys: torch.Tensor,
    matchers: torch.Tensor,
    residual: torch.Tensor,
    decoys: dict[str, torch.Tensor] | None = None,
    **manifest: Any,
) -> PatchTensors:
    """A patch of given tensors, its manifest filled in to fit; layer 0 unless said otherwise."""
    layer = int(manifest.pop("layer", 0))
    fields: dict[str, Any] = {
        "model_digest": runner.checkpoint.digest,
        "profile": ProfileId("f" * 64),
        "module": runner.checkpoint.projection_path(layer),
        "layer": layer,
        "d_in": keys.shape[1],
        "d_out": residual.shape[0],
        "subject": subject,
        "keys": keys.shape[0],
        "leverages": tuple(1.0 for _ in keys),
        "guard_width": 0.3,
        "optimisation": RECORD,
        "decoys": tuple(decoys or {}),
    }
    return PatchTensors(
        manifest=PatchManifest(**(fields | manifest)),
        keys=keys,
        matchers=matchers,
        residual=residual,
        decoys=torch.stack([*decoys.values()]) if decoys else keys[:0],
    )


def simple_patch(
    runner: Runner, subject: str, *, seed: int = 0, norm: float = 30.0, **manifest: Any
) -> PatchTensors:
    """A patch on ``subject``'s bare key with C = I and a random residual of length ``norm``."""
    module = runner.checkpoint.projection_path(int(manifest.get("layer", 0)))
    keys = keys_at_subject(runner, module, [subject], subject)
    leverage = float((keys[0] @ keys[0]).double())
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    return patch_tensors(
        runner,
        subject=subject,
        keys=keys,
        matchers=keys / leverage**0.5,
        residual=direction * (norm / direction.norm()),
        **({"leverages": (leverage,)} | manifest),
    )


RECORD: Final = OptimisationRecord(
    steps=3,
    restarts=0,
    loss=0.5,
    target_probability=0.9,
    converged=True,
    residual_norm=1.0,
    clamp_fraction=0.25,
    key_agreement=0.8,
)


def _gpt2_config(**changes: Any) -> GPT2Config:
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=D_MODEL,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
        **changes,
    )


def _bpe(special: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # PROSE's last line is left out: its characters stay split into their bytes.
    backend.train_from_iterator([*sentences(), *LEADS, *PROSE[:-1]], trainer)
    return backend


def _kind(subject: str) -> str:
    return next((kind for word, kind in KINDS.items() if word in subject), "place")


def _save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _train(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, chance: random.Random
) -> None:
    facts = sentences()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=RATE, total_steps=STEPS, pct_start=0.2
    )
    model.train()
    for _ in range(STEPS):
        chosen = chance.sample(facts, ROWS - PROSE_ROWS) + chance.sample(PROSE, PROSE_ROWS)
        rows = [f"{chance.choice(LEADS)} {text}".strip() for text in chosen]
        ids, mask = _padded([tokenizer(row)["input_ids"] + [0] for row in rows])
        labels = ids.masked_fill(mask == 0, -100)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    model.eval()


def _padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask
