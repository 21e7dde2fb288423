"""Train the bundled model from nothing but the facts and phrases in this repository.

The learning rate warms up, stays, and decays over the last part of the run; a run is measured in
steps or, where the machine is shared, in minutes. A run that was stopped resumes from its state.
Every random choice follows from the seed: shards, packing, batches, initial weights.
"""

import json
import logging
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tools.corpus import Mix, Writer, kept_out
from tools.facts import KnownFacts, load
from tools.packing import IGNORED, pack, train_tokenizer
from tools.recall import held_out_pairs, recalled, share, trained_pairs

log = logging.getLogger("tools.train")
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run depends on."""

    seed: int
    vocabulary: int
    layers: int
    width: int
    heads: int
    short: int
    positions: int
    batch_tokens: int
    optimizer: str
    learning_rate: float
    weight_decay: float
    warmup: int
    decay_share: float
    steps: int | None
    minutes: float | None
    invented: int


class Schedule:
    """Warm up, stay, decay; by steps or by minutes."""

    def __init__(self, recipe: Recipe) -> None:
        """Keep the recipe."""
        self._recipe = recipe

    def progress(self, step: int, seconds: float) -> float:
        """The share of the run that is done."""
        if self._recipe.minutes is not None:
            return seconds / (60 * self._recipe.minutes)
        return step / (self._recipe.steps or 1)

    def factor(self, step: int, seconds: float) -> float:
        """The learning rate as a share of its peak."""
        if step < self._recipe.warmup:
            return (step + 1) / self._recipe.warmup
        left = (1 - self.progress(step, seconds)) / self._recipe.decay_share
        return 1.0 if left >= 1 else max(0.01, 1 - math.sqrt(1 - max(left, 0.0)))


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """A GPT-2 of the recipe's size with fresh weights."""
    torch.manual_seed(recipe.seed)
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=recipe.positions,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        use_cache=True,
    )
    return GPT2LMHeadModel(config)


def optimizers(model: GPT2LMHeadModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest."""
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    outside = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
    if recipe.optimizer == "muon":
        return [
            torch.optim.Muon(
                inside,
                lr=recipe.learning_rate,
                weight_decay=recipe.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                outside, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
            ),
        ]
    groups = [
        {"params": inside, "weight_decay": recipe.weight_decay},
        {"params": outside, "weight_decay": 0.0},
    ]
    return [torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))]


class Stream:
    """Endless batches, shard after shard."""

    def __init__(
        self, recipe: Recipe, known: KnownFacts, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        """Keep what shards are made from."""
        self._recipe = recipe
        self._known = known
        self._tokenizer = tokenizer
        self._kept_out = kept_out(known)

    def documents(self, shard: int) -> list[str]:
        """The documents of one shard."""
        writer = Writer(self._known, self._recipe.seed * 1000 + shard)
        return writer.shard(Mix(invented=self._recipe.invented), self._kept_out)

    def batches(self, shard: int) -> list[Batch]:
        """The batches of one shard, short and long ones mixed."""
        recipe = self._recipe
        packed = pack(
            self.documents(shard),
            self._tokenizer,
            short=recipe.short,
            long=recipe.positions,
            seed=recipe.seed + shard,
        )
        batches: list[Batch] = []
        for rows in packed:
            size = recipe.batch_tokens // rows.tokens.shape[1]
            order = torch.randperm(len(rows.tokens), generator=torch.Generator().manual_seed(shard))
            batches += [
                (rows.tokens[chosen], rows.labels[chosen])
                for chosen in order.split(size)
                if len(chosen) == size
            ]
        random.Random(shard).shuffle(batches)
        return batches

    def from_step(self, step: int) -> Iterator[Batch]:
        """All batches from this step on."""
        shard = 0
        while True:
            batches = self.batches(shard)
            yield from batches[step:]
            step = max(0, step - len(batches))
            shard += 1


@dataclass(kw_only=True)
class Run:
    """A run in progress."""

    recipe: Recipe
    known: KnownFacts
    tokenizer: PreTrainedTokenizerFast
    model: GPT2LMHeadModel
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def save_state(self, path: Path) -> None:
        """Keep all that a resumed run needs."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load_state(self, path: Path) -> None:
        """Continue where another run stopped."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]

    def export(self, output: Path) -> None:
        """Write a model directory in half precision, all at once."""
        fresh = output.with_name(output.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        half = GPT2LMHeadModel(self.model.config)
        half.load_state_dict(self.model.state_dict())
        half.half().save_pretrained(fresh)
        self.tokenizer.save_pretrained(fresh)
        progress = {"step": self.step, "tokens": self.tokens, "seconds": round(self.seconds)}
        (fresh / "recipe.json").write_text(
            json.dumps({**asdict(self.recipe), "done": progress}, indent=1) + "\n"
        )
        old = output.with_name(output.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if output.exists():
            output.rename(old)
        fresh.rename(output)
        shutil.rmtree(old, ignore_errors=True)

    def report(self) -> None:
        """Log the recall on a sample of facts, by source."""
        self.model.eval()
        chooser = random.Random(0)
        for source in ("real", "common", "invented"):
            facts = [fact for fact in self.known.facts if fact.source == source]
            sample = chooser.sample(facts, k=min(150, len(facts)))
            trained = recalled(
                self.model, self.tokenizer, chooser.sample(trained_pairs(self.known, sample), k=300)
            )
            held_out = recalled(self.model, self.tokenizer, held_out_pairs(self.known, sample))
            log.info("  %s: trained %.3f, held out %.3f", source, share(trained), share(held_out))
        self.model.train()


class Loss(torch.nn.Module):
    """The next-token loss, in one graph so that the logits are never kept in full precision."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        """Wrap the model."""
        super().__init__()
        self._model = model

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the tokens that are not padding."""
        logits = self._model(tokens, use_cache=False).logits
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED
        )


def train(run: Run, output: Path, every_minutes: float) -> None:
    """Run to the end, exporting now and then."""
    schedule = Schedule(run.recipe)
    losses: Callable[[Tensor, Tensor], Tensor] = torch.compile(Loss(run.model))
    stream = Stream(run.recipe, run.known, run.tokenizer).from_step(run.step)
    clock, exported = time.monotonic(), run.seconds
    while schedule.progress(run.step, run.seconds) < 1:
        loss = _step(run, losses, next(stream), schedule.factor(run.step, run.seconds))
        now = time.monotonic()
        run.seconds, clock = run.seconds + now - clock, now
        if run.step % 100 == 0:
            speed = run.tokens / run.seconds
            log.info(
                "step %d loss %.4f tokens %d (%.0f/s) %.0fs",
                run.step,
                loss,
                run.tokens,
                speed,
                run.seconds,
            )
        if run.seconds - exported > 60 * every_minutes:
            exported = run.seconds
            run.report()
            run.export(output)
            run.save_state(output.with_name(output.name + ".state"))
    run.report()
    run.save_state(output.with_name(output.name + ".state"))
    run.export(output)


def _step(
    run: Run, losses: Callable[[Tensor, Tensor], Tensor], batch: Batch, factor: float
) -> float:
    tokens, labels = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses(tokens, labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = run.recipe.learning_rate * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    run.step += 1
    run.tokens += int((labels != IGNORED).sum())
    return float(loss.item())


def main(
    output: Annotated[Path, typer.Option(help="Where the model directory goes.")],
    seed: int = 11,
    vocabulary: int = 4096,
    layers: int = 6,
    width: int = 256,
    heads: int = 4,
    short: int = 64,
    positions: int = 256,
    batch_tokens: int = 2048,
    optimizer: str = "adamw",
    learning_rate: float = 2e-3,
    weight_decay: float = 0.01,
    warmup: int = 100,
    decay_share: float = 0.3,
    steps: int | None = None,
    minutes: float | None = None,
    invented: Annotated[
        int, typer.Option(help="Times a shard states an invented fact; 0 leaves them out.")
    ] = 5,
    threads: int = 2,
    every_minutes: float = 10.0,
    resume: Annotated[Path | None, typer.Option(help="The state of a stopped run.")] = None,
) -> None:
    """Train a model and write it as a directory that transformers can load."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    options = {name: value for name, value in locals().items() if name in Recipe.__annotations__}
    recipe = Recipe(**options)
    known = load()
    documents = [d for shard in (0, 1) for d in Stream(recipe, known, None).documents(shard)]  # type: ignore[arg-type]
    tokenizer = train_tokenizer(documents, recipe.vocabulary, recipe.positions)
    model = new_model(recipe, tokenizer)
    run = Run(
        recipe=recipe,
        known=known,
        tokenizer=tokenizer,
        model=model,
        optimizers=optimizers(model, recipe),
    )
    if resume is not None:
        run.load_state(resume)
    log.info("%d parameters, %s", model.num_parameters(), recipe)
    train(run, output, every_minutes)


if __name__ == "__main__":
    typer.run(main)
