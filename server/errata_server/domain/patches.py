"""A patch: one edit's keys and value, immutable and addressed by its content.

Invariants: the payload is safetensors and nothing else; its metadata is the manifest's
canonical JSON; the digest is over the payload's bytes as stored.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from errata_server.domain import canonical
from errata_server.domain.ids import Digest, ProfileId


class Composition(StrEnum):
    """How live patches act on the edited projection."""

    GUARDED = "guarded"
    """Only where an edit's own key is recognised, the best match alone."""

    LINEAR = "linear"
    """As one weight change over all edits; what leaves for other engines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimisationRecord:
    """How the value residual was found."""

    steps: int
    restarts: int
    loss: float
    target_probability: float
    """Lowest probability of a target over all contexts at the end."""

    converged: bool
    residual_norm: float
    clamp_fraction: float
    """Residual norm over the largest norm allowed; 1 means stuck at the clamp."""

    key_agreement: float
    """rho_u: the unprefixed key's match with the averaged key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchManifest:
    """What a patch is for and what it was computed against."""

    model_digest: Digest
    profile: ProfileId
    module: str
    layer: int
    d_in: int
    d_out: int
    subject: str
    keys: int
    """Number of keys that share the one value: the average, and contexts it would miss."""

    leverages: tuple[float, ...]
    """``k^T C^-1 k`` of each key, so that linear composition can scale the matchers back."""

    guard_width: float
    optimisation: OptimisationRecord
    decoys: tuple[str, ...] = ()
    """The known subject of each decoy: nearer to it than to this edit's keys, nothing fires."""

    aliases: tuple[str, ...] = ()
    """Other names of the subject, which have keys here too."""

    @property
    def names(self) -> tuple[str, ...]:
        """The subject and its aliases."""
        return (self.subject, *self.aliases)

    @property
    def body(self) -> bytes:
        """Canonical JSON of every field; later ones only where there are some (ADR 0017)."""
        values = asdict(self)
        for name in ("decoys", "aliases"):
            if not values[name]:
                del values[name]
        return canonical.encode(values)

    @classmethod
    def from_body(cls, body: bytes) -> Self:
        """Inverse of `body`."""
        fields: dict[str, Any] = canonical.decode(body)
        fields["leverages"] = tuple(fields["leverages"])
        fields["decoys"] = tuple(fields.get("decoys", ()))
        fields["aliases"] = tuple(fields.get("aliases", ()))
        fields["optimisation"] = OptimisationRecord(**fields["optimisation"])
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A manifest and the safetensors bytes that carry it."""

    manifest: PatchManifest
    payload: bytes

    @property
    def digest(self) -> Digest:
        """SHA-256 of the payload; the artifact's name in the ledger."""
        return canonical.digest(self.payload)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServedWeights:
    """The base model with a set of live patches composed, ready to answer.

    Immutable: a request holds one from its first token to its last.
    """

    digest: Digest
    """Weights digest: over the composed tensors in the order they are applied."""

    patches: tuple[Digest, ...]
    composition: Composition
    bank: object
    """The engine's composed tensors; opaque outside the engine."""


LoadArtifact = Callable[[Digest], bytes]
"""Gives the payload of a stored patch."""
