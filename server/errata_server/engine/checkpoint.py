"""Loading a checkpoint, safely, and knowing exactly what was loaded.

Invariants: safetensors only, never remote code; the digest is over the files' bytes, so it
is the same on every machine and for every dtype; the tensors are frozen.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from errata_server.domain.errors import UnsupportedModelError
from errata_server.domain.ids import Digest
from errata_server.domain.profiles import ModelDescription
from errata_server.engine.architecture import Architecture, architecture_of, projection
from errata_server.engine.kernels import hasten

FILES: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer.model",
    "chat_template.jinja",
)
HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")
CHUNK: Final = 1 << 20
_UNLOADABLE: Final = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers raises over malformed files."""

_NO_DEVICE: Final = (RuntimeError, AssertionError, ImportError)
"""What torch raises over a device that is not there, or that it was not built for."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded model with its tokenizer, frozen, in evaluation mode."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture
    digest: Digest
    source: str
    memory_digest: Digest
    """Over the tensors as they lay in memory right after loading."""

    @cached_property
    def layers(self) -> int:
        """Number of blocks."""
        count: int = self.model.config.to_dict()[self.architecture.layers]
        return count

    @property
    def context(self) -> int:
        """Most tokens the model can see at once."""
        length: int = self.model.config.max_position_embeddings
        return length

    def projection_path(self, layer: int) -> str:
        """Dotted path of the edited projection in ``layer``."""
        return self.architecture.projection.format(layer)

    @cached_property
    def description(self) -> ModelDescription:
        """What is known of the checkpoint without its tensors; asked for with every patch."""
        weight = projection(self.model, self.projection_path(0)).get_parameter("weight")
        d_model = self.model.get_submodule(self.architecture.embeddings).get_parameter("weight")
        return ModelDescription(
            digest=self.digest,
            source=self.source,
            architecture=self.architecture.family,
            layers=self.layers,
            d_model=d_model.shape[1],
            d_in=weight.numel() // d_model.shape[1],
            vocabulary=d_model.shape[0],
            context=self.context,
            parameters=sum(p.numel() for p in self.model.parameters()),
            dtype=str(d_model.dtype).removeprefix("torch."),
            device=d_model.device.type,
        )


def load_checkpoint(source: str, *, device: str = "auto", dtype: str = "auto") -> Checkpoint:
    """Load a causal language model from a local folder or a hub id.

    Args:
        source: A folder with config.json, tokenizer.json and safetensors, or ``owner/name``.
        device: A torch device, or ``auto`` for CUDA where there is one.
        dtype: A torch dtype's name, or ``auto``: float32 on the CPU, else as stored.

    Raises:
        UnsupportedModelError: no such folder, no safetensors, remote code asked for, a
            family errata does not know, or files that do not fit together.
    """
    folder = _folder(source)
    config = _config(folder, source)
    architecture = architecture_of(str(config.get("model_type", "")))
    place = _device(device)
    # Its bars and hints are for notebooks; a server's stderr is a log.
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=_dtype(dtype, place),
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except _UNLOADABLE as error:
        raise UnsupportedModelError(
            f"{source!r} cannot be loaded: {_first_line(error)}", source=source
        ) from error
    model, loading = loaded
    if loading["missing_keys"]:  # transformers would serve them with random numbers
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise UnsupportedModelError(
            f"{source!r} lacks tensors its config asks for, such as {missing}; fetch it again",
            source=source,
        )
    if not tokenizer.is_fast:
        raise UnsupportedModelError(
            f"{source!r} has no tokenizer.json; errata needs a fast tokenizer to find the "
            "subject's tokens",
            source=source,
        )
    _make_ready(model, place)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        architecture=architecture,
        digest=_files_digest(folder),
        source=source if HUB_ID.fullmatch(source) else folder.name,
        memory_digest=tensors_digest(model),
    )


def _make_ready(model: Any, place: torch.device) -> None:  # noqa: ANN401 - transformers' are untyped
    """Frozen, where it is to be, on the faster kernels, and without sampling habits of its own."""
    # A checkpoint's (repetition penalty and the like) would bend answers.
    model.generation_config = GenerationConfig()
    model.requires_grad_(requires_grad=False).eval().to(place)
    hasten(model)


def tensors_digest(model: PreTrainedModel) -> Digest:
    """SHA-256 over every parameter and buffer in memory, in name order."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        sha.update(flat.numpy().data)
    return Digest(sha.hexdigest())


def _folder(source: str) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(source) or folder.is_absolute():
        raise UnsupportedModelError(
            f"there is no folder {source!r}, and it is no hub id of the form owner/name; give "
            "a folder with config.json, tokenizer.json and safetensors",
            source=source,
        )
    try:
        return Path(snapshot_download(source, allow_patterns=[*FILES, "*.safetensors*"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UnsupportedModelError(
            f"{source!r} is not in the local cache and cannot be fetched: {_first_line(error)}",
            source=source,
        ) from error


def _config(folder: Path, source: str) -> dict[str, Any]:
    try:
        config: Any = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnsupportedModelError(
            f"{source!r} has no readable config.json; it is not a checkpoint folder",
            source=source,
        ) from error
    if not isinstance(config, dict):
        raise UnsupportedModelError(
            f"{source!r} has a config.json that is no JSON object; it is not a checkpoint folder",
            source=source,
        )
    if "auto_map" in config:
        raise UnsupportedModelError(
            f"{source!r} asks for code of its own (auto_map); errata never runs a "
            "checkpoint's code",
            source=source,
        )
    if not any(folder.glob("*.safetensors")):
        pickles = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
        found = f"only pickle files ({pickles[0].name})" if pickles else "no weights"
        raise UnsupportedModelError(
            f"{source!r} holds {found}; convert it to safetensors first", source=source
        )
    return config


def _files_digest(folder: Path) -> Digest:
    sha = hashlib.sha256()
    # With the index of a sharded checkpoint, which says what tensor to take from where.
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")])
    named = [folder / name for name in FILES if (folder / name).is_file()]
    for path in [*weights, *named]:
        sha.update(f"{path.name}|{path.stat().st_size}|".encode())
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                sha.update(chunk)
    return Digest(sha.hexdigest())


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).cpu()  # a kind torch knows need not be in this machine
    except _NO_DEVICE as error:
        raise UnsupportedModelError(
            f"{device!r} is no device of this machine; give cpu, cuda or cuda:N", device=device
        ) from error
    return place


def _dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise UnsupportedModelError(
            f"{dtype!r} is no dtype errata serves; give one of {', '.join(known)}", dtype=dtype
        )
    return known[dtype]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
