"""Ledger checkpoints and proofs: what a client keeps of a server's log, and how it checks it.

Invariants: a note reads back to the very text that was signed, or is refused; nothing here
believes the server about a hash it can compute itself.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from errata import _proofs
from errata._errors import InvalidInputError, ProofError
from errata._keys import PublicKey
from errata._types import Finding

_NOTE: Final = re.compile(
    r"(?P<origin>errata/(?P<model>[^/\s]+)/(?P<base>[0-9a-f]{64}))\n"
    r"(?P<size>0|[1-9]\d{0,18})\n(?P<root>[A-Za-z0-9+/]{43}=)\n"
    r"(?:\n(?P<signatures>(?:\u2014 [^\s+]+ [A-Za-z0-9+/=]+\n)+))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """A signature at the end of a note."""

    name: str
    hash: bytes
    value: bytes = field(repr=False)

    @property
    def key(self) -> str:
        """Name and hash of the key."""
        return f"{self.name}+{self.hash.hex()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerCheckpoint:
    """The size and root of a model's log: what an auditor keeps."""

    note: str
    """The whole text with its signatures; keep this."""

    model: str
    base: str
    """The digest of the checkpoint the model was loaded from."""

    size: int
    root: bytes = field(repr=False)
    signatures: tuple[NoteSignature, ...] = ()

    @property
    def text(self) -> str:
        """What is signed."""
        return self.note.partition("\n\n")[0].rstrip("\n") + "\n"

    @property
    def key(self) -> str:
        """Name and hash of the first key that signed; empty where none did."""
        return self.signatures[0].key if self.signatures else ""

    @classmethod
    def parse(cls, note: str) -> Self:
        """The checkpoint that ``note`` is.

        Raises:
            InvalidInputError: it is none.
        """
        found = _NOTE.fullmatch(note)
        if found is None:
            raise InvalidInputError(
                "this is no ledger checkpoint: it must have an origin that begins with errata/, "
                "a size and a root, each on a line",
                {"field": "checkpoint"},
            )
        if not _decoded(found["root"]):
            raise InvalidInputError(
                "the checkpoint's root is malformed; copy the whole note again",
                {"field": "checkpoint"},
            )
        lines = (found["signatures"] or "").splitlines()
        return cls(
            note=note,
            model=found["model"],
            base=found["base"],
            size=int(found["size"]),
            root=_decoded(found["root"]),
            signatures=tuple(_note_signature(line) for line in lines),
        )

    def objection(self, keys: Sequence[PublicKey]) -> str:
        """Why no key of ``keys`` vouches for this checkpoint; empty if one does.

        Raises:
            MissingExtraError: ``cryptography`` is not installed.
        """
        if not self.signatures:
            return "is not signed"
        trusted = {key.id: key for key in keys}
        for signature in self.signatures:
            key = trusted.get(signature.key)
            if key is None:
                continue
            if key.verifies(signature.value, self.text.encode()):
                return ""
            return f"was changed, or the signature by {key.id} was: the two do not belong together"
        named = ", ".join(signature.key for signature in self.signatures)
        return f"is signed by another key than the trusted: {named}"


def _decoded(text: str) -> bytes:
    """What base64 stands for; nothing where it is not the one way to write it."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return raw if base64.b64encode(raw).decode() == text else b""


def _note_signature(line: str) -> NoteSignature:
    _, name, encoded = line.split(" ")
    raw = _decoded(encoded)
    if len(raw) < 5:
        raise InvalidInputError(
            f"the checkpoint's signature by {name!r} is malformed; copy the whole note again",
            {"field": "checkpoint"},
        )
    return NoteSignature(name=name, hash=raw[:4], value=raw[4:])


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """A row's place in the log."""

    position: int
    kind: str
    """``model``, ``profile``, ``edit``, ``report``, ``approval``, ``suite`` or ``revision``."""

    key: str
    """The row's id, or its number where it has none."""

    digest: str
    """SHA-256 of the row's body."""

    @property
    def leaf_hash(self) -> bytes:
        """The entry as the tree has it."""
        said = {"kind": self.kind, "key": self.key, "digest": self.digest}
        return _proofs.leaf_hash(canonical(said))


def canonical(value: Mapping[str, object]) -> bytes:
    """UTF-8 JSON with sorted keys and no white space: the one spelling that is hashed."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class InclusionProof:
    """What proves one edit, report or revision to be in the log; `Client.prove` has checked it."""

    entry: LogEntry
    body: bytes = field(repr=False)
    """The row's canonical bytes."""

    hashes: tuple[bytes, ...] = field(repr=False)
    checkpoint: LedgerCheckpoint

    def verify(
        self,
        name: str,
        *,
        against: LedgerCheckpoint | None = None,
        keys: Sequence[PublicKey] = (),
    ) -> None:
        """Do nothing if the row of this name is in the log.

        Args:
            name: What was asked about: ``models/*/edits/*`` and so on.
            against: A checkpoint that was kept; the server's own where not given.
            keys: Of whom one must have signed that checkpoint, where there are any.

        Raises:
            ProofError: saying what does not follow.
            MissingExtraError: there are keys, and ``cryptography`` is not installed.
        """
        checkpoint = against or self.checkpoint
        problem = self._problem(name, checkpoint)
        if not problem and keys:
            objection = checkpoint.objection(keys)
            problem = f"the checkpoint {objection}" if objection else ""
        if problem:
            raise ProofError(f"{name} is not proven to be in the log: {problem}", {"name": name})

    def _problem(self, name: str, checkpoint: LedgerCheckpoint) -> str:
        _, model, collection, identifier = name.split("/")
        if checkpoint.model != model:
            return f"the checkpoint is of the model {checkpoint.model!r}"
        if self.entry.kind != collection.removesuffix("s"):
            return f"the entry is of a {self.entry.kind}"
        if hashlib.sha256(self.body).hexdigest() != self.entry.digest:
            return "the bytes sent along are not those the entry stands for"
        known = self.entry.key if collection == "edits" else self.entry.digest
        asked = identifier if _is_id(collection, identifier) else known
        if {self.entry.key, asked, _own_id(collection, self.body, known)} != {known}:
            return f"the entry stands for {self.entry.key}"
        if not _proofs.includes(
            self.entry.leaf_hash,
            index=self.entry.position,
            size=checkpoint.size,
            hashes=self.hashes,
            root=checkpoint.root,
        ):
            return "the hashes do not lead from it to the checkpoint's root"
        return ""


def _is_id(collection: str, identifier: str) -> bool:
    """Whether ``identifier`` is a whole id: revisions have shorter names."""
    return collection != "revisions" or bool(re.fullmatch(r"[0-9a-f]{64}", identifier))


def _own_id(collection: str, body: bytes, otherwise: str) -> str:
    """The id a row's own bytes hold; those of edits alone do."""
    if collection != "edits":
        return otherwise
    try:
        return str(json.loads(body)["id"])
    except (ValueError, KeyError, TypeError):
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointComparison:
    """A checkpoint that was kept, held against the log as it is now."""

    kept: LedgerCheckpoint
    present: LedgerCheckpoint
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether the log as it is now goes on from the kept one."""
        return not self.findings


def needs_proof(kept: LedgerCheckpoint, present: LedgerCheckpoint) -> bool:
    """Whether only a consistency proof can tell if ``present`` goes on from ``kept``."""
    return (kept.model, kept.base) == (present.model, present.base) and kept.size < present.size


def compare(
    kept: LedgerCheckpoint,
    present: LedgerCheckpoint,
    proof: Sequence[bytes],
    keys: Sequence[PublicKey],
) -> CheckpointComparison:
    """What is wrong between a kept checkpoint and the server's present one.

    Args:
        kept: The earlier one.
        present: The later one.
        proof: The consistency proof between their sizes; empty where none is needed.
        keys: Of whom one must have signed both, where there are any.

    Raises:
        MissingExtraError: there are keys, and ``cryptography`` is not installed.
    """
    problems = [*_signatures(kept, present, keys), *_growth(kept, present, proof)]
    return CheckpointComparison(
        kept=kept,
        present=present,
        findings=tuple(Finding(row="log", problem=problem) for problem in problems),
    )


def _signatures(
    kept: LedgerCheckpoint, present: LedgerCheckpoint, keys: Sequence[PublicKey]
) -> Iterable[str]:
    if not keys:
        if kept.key and kept.key not in {signature.key for signature in present.signatures}:
            now = f"signs with {present.key}" if present.key else "does not sign"
            yield f"the kept checkpoint is signed by {kept.key}, and the server now {now}"
        return
    for whose, checkpoint in (("the kept", kept), ("the server's", present)):
        objection = checkpoint.objection(keys)
        if objection:
            yield f"{whose} checkpoint {objection}"


def _growth(
    kept: LedgerCheckpoint, present: LedgerCheckpoint, proof: Sequence[bytes]
) -> Iterable[str]:
    if kept.model != present.model:
        yield f"the kept checkpoint is of another model: {kept.model}, not {present.model}"
    elif kept.base != present.base:
        yield (
            "the kept checkpoint is of a model of this name loaded from another checkpoint: "
            f"{kept.base}, not {present.base}"
        )
    elif present.size < kept.size:
        yield (
            f"the log has {present.size} entries and had {kept.size}: its tail was cut off, or "
            "an older database was restored"
        )
    elif not _goes_on(kept, present, proof):
        yield (
            f"the first {kept.size} of the log's {present.size} entries are not those of the "
            "kept checkpoint: history was written anew, or this database is a fork"
        )


def _goes_on(kept: LedgerCheckpoint, present: LedgerCheckpoint, proof: Sequence[bytes]) -> bool:
    return _proofs.extends(
        kept.size,
        present.size,
        hashes=proof,
        first_root=kept.root,
        second_root=present.root,
    )
