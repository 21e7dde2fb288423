"""A patch as bytes and as tensors.

Invariants: the payload is safetensors with exactly the tensors ``keys``, ``matchers`` and
``residual``, and ``decoys`` where its manifest names some, all float32 and finite, of the
shapes the manifest names; anything else is refused before it comes near the model.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from errata_server.domain.errors import InvalidPatchError, ModelMismatchError
from errata_server.domain.ids import Digest
from errata_server.domain.patches import Patch, PatchManifest
from errata_server.domain.payloads import MANIFEST_KEY, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchTensors:
    """One edit's keys and value."""

    manifest: PatchManifest
    keys: Float[Tensor, "key d_in"]
    """k: what the projection receives at the subject's last token, averaged over prefixes."""

    matchers: Float[Tensor, "key d_in"]
    """C^-1 k |k| / (k^T C^-1 k): a row times an input over its length is the input's match."""

    residual: Float[Tensor, " d_out"]
    """r: what is added to the projection's output where a key is recognised."""

    decoys: Float[Tensor, "decoy d_in"]
    """C^-1 k / sqrt(k^T C^-1 k) of other subjects' keys: a row times an input over its length is
    the input's nearness to that subject; see `GuardedBranch`."""

    @property
    def scales(self) -> Float[Tensor, " key"]:
        """sqrt(k^T C^-1 k) / |k|: a match times its key's scale is a nearness."""
        scales: Tensor = torch.tensor(self.manifest.leverages).sqrt() / self.keys.norm(dim=1)
        return scales


def encode(tensors: PatchTensors) -> Patch:
    """The patch as safetensors bytes, its manifest in the metadata."""
    named = {
        "keys": tensors.keys.float().cpu().contiguous(),
        "matchers": tensors.matchers.float().cpu().contiguous(),
        "residual": tensors.residual.float().cpu().contiguous(),
    }
    if tensors.manifest.decoys:
        named["decoys"] = tensors.decoys.float().cpu().contiguous()
    payload = save(named, metadata={MANIFEST_KEY: tensors.manifest.body.decode("utf-8")})
    return Patch(manifest=tensors.manifest, payload=payload)


def decode(payload: bytes, *, model: Digest) -> PatchTensors:
    """Inverse of `encode`, for the checkpoint ``model``.

    Raises:
        InvalidPatchError: not safetensors, no manifest or a senseless one, other tensors,
            other shapes or dtypes than the manifest names, or a value that is not finite.
        ModelMismatchError: it was computed against another checkpoint.
    """
    manifest = read_manifest(payload)
    _check_manifest(manifest)
    if manifest.model_digest != model:
        raise ModelMismatchError(
            f"the patch for {manifest.subject!r} was computed against checkpoint "
            f"{manifest.model_digest[:12]}, not {model[:12]}; propose it again on this model",
            patch_model=manifest.model_digest,
            model=model,
        )
    try:
        named = load(payload)
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise InvalidPatchError(f"the artifact is not safetensors: {error}") from error
    shapes: dict[str, tuple[int, ...]] = {
        "keys": (manifest.keys, manifest.d_in),
        "matchers": (manifest.keys, manifest.d_in),
        "residual": (manifest.d_out,),
    }
    if manifest.decoys:
        shapes["decoys"] = (len(manifest.decoys), manifest.d_in)
    if set(named) != set(shapes):
        raise InvalidPatchError(
            f"the artifact holds the tensors {sorted(named)}; a patch has {sorted(shapes)}"
        )
    for name, shape in shapes.items():
        _check_tensor(name, named[name], shape)
    named.setdefault("decoys", torch.zeros(0, manifest.d_in))
    return PatchTensors(manifest=manifest, **named)


def _check_manifest(manifest: PatchManifest) -> None:
    """Refuse a manifest whose JSON has the right names and the wrong kinds of values."""
    place = (manifest.model_digest, manifest.profile, manifest.module)
    texts = (*place, *manifest.names, *manifest.decoys)
    counts = (manifest.keys, manifest.d_in, manifest.d_out)
    numbers = (*manifest.leverages, manifest.guard_width)
    sound = (
        all(isinstance(text, str) for text in texts)
        and type(manifest.layer) is int
        and all(type(count) is int and count > 0 for count in counts)
        and all(type(number) in {int, float} and 0 < number < math.inf for number in numbers)
        and len(manifest.leverages) == manifest.keys
    )
    if not sound:
        raise InvalidPatchError(
            "the artifact's manifest names values no patch has; propose the edit again"
        )


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.dtype != torch.float32 or tuple(tensor.shape) != shape:
        raise InvalidPatchError(
            f"tensor {name} is {tensor.dtype} {tuple(tensor.shape)}; the manifest names "
            f"float32 {shape}",
            tensor=name,
        )
    if not bool(torch.isfinite(tensor).all()):
        raise InvalidPatchError(f"tensor {name} holds NaN or infinity", tensor=name)
