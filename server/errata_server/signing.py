"""Ed25519 keys: the server's own, which signs ledger checkpoints, and those of proposers.

Invariants: keys are spelled as C2SP signed-note spells them, and a key's name and hash go
together; no error and no repr repeats a private key; a private key's file is made readable to
its owner alone, and is never written over.
"""

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from errata_server.domain.errors import (
    InvalidInputError,
    InvalidSignatureError,
    SignatureRequiredError,
    UntrustedKeyError,
)
from errata_server.domain.signatures import ProposerSignature, Statement

PRIVATE: Final = "PRIVATE+KEY+"
RETIRED: Final = "retired "
"""Before a key in a file of trusted ones: good for what is stored, not for anything new."""

_ED25519: Final = b"\x01"
_NAME: Final = re.compile(r"[^\s+\x00-\x1f]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A key that signatures are checked with."""

    name: str
    raw: bytes

    @property
    def hash(self) -> bytes:
        """Four bytes that tell keys of one name apart."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.raw).digest()[:4]

    @property
    def id(self) -> str:
        """Name and hash."""
        return f"{self.name}+{self.hash.hex()}"

    def __str__(self) -> str:
        return f"{self.id}+{base64.b64encode(_ED25519 + self.raw).decode()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of ``str``.

        Raises:
            InvalidInputError: it is no public key, or its hash belongs to another.
        """
        name, given, encoded = _parts(text, "a public key looks like NAME+HASH+KEY")
        key = cls(name=name, raw=encoded)
        if key.hash.hex() != given:
            raise InvalidInputError(
                f"the hash of the key {name!r} belongs to another key; copy the whole line again",
                field="key",
            )
        return key

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` is this key's over ``message``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A private key with its name."""

    name: str
    seed: bytes = field(repr=False)

    @property
    def public(self) -> PublicKey:
        """What its signatures are checked with."""
        private = Ed25519PrivateKey.from_private_bytes(self.seed)
        return PublicKey(name=self.name, raw=private.public_key().public_bytes_raw())

    @property
    def text(self) -> str:
        """The key as its file holds it."""
        encoded = base64.b64encode(_ED25519 + self.seed).decode()
        return f"{PRIVATE}{self.public.id}+{encoded}"

    @classmethod
    def generate(cls, name: str) -> Self:
        """A fresh key.

        Raises:
            InvalidInputError: the name is empty, or holds a space or a plus sign.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInputError(
                f"a key cannot be named {name!r}; leave out spaces and plus signs", field="name"
            )
        return cls(name=name, seed=Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def read(cls, path: Path) -> Self:
        """The key a file holds.

        Raises:
            InvalidInputError: the file cannot be read, or holds no private key.
        """
        text = _read(path, "signing_key").strip()
        problem = f"{path} holds no private key; make one with `errata-server keygen`"
        if not text.startswith(PRIVATE):
            raise InvalidInputError(problem, field="signing_key")
        name, given, seed = _parts(text.removeprefix(PRIVATE), problem)
        key = cls(name=name, seed=seed)
        if key.public.hash.hex() != given:
            raise InvalidInputError(problem, field="signing_key")
        return key

    def write(self, path: Path) -> None:
        """Write the key where its owner alone can read it.

        Raises:
            InvalidInputError: the file is there already, or cannot be written.
        """
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise InvalidInputError(
                f"{path} is there already; a key is never written over: name another file",
                field="file",
            ) from None
        except OSError as error:
            raise InvalidInputError(
                f"cannot write {path}: {error.strerror}", field="file"
            ) from error
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{self.text}\n")

    def note(self, text: str) -> str:
        """``text`` with this key's signature, as C2SP signed-note has it."""
        private = Ed25519PrivateKey.from_private_bytes(self.seed)
        signature = base64.b64encode(self.public.hash + private.sign(text.encode())).decode()
        return f"{text}\n\u2014 {self.name} {signature}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKeys:
    """The keys whose proposals are taken."""

    keys: Mapping[str, PublicKey] = field(default_factory=dict)
    """By name and hash; those that were retired too."""

    retired: frozenset[str] = frozenset()
    required: bool = False
    """Whether a proposal must be signed."""

    @classmethod
    def read(cls, path: Path | None, *, required: bool) -> Self:
        """The keys a file lists, one a line; none where there is no file.

        Raises:
            InvalidInputError: the file cannot be read, or a line of it is no public key.
        """
        text = "" if path is None else _read(path, "trusted_keys")
        keys: dict[str, PublicKey] = {}
        retired = set()
        for number, line in enumerate(text.splitlines(), start=1):
            listed = line.strip()
            if not listed or listed.startswith("#"):
                continue
            try:
                key = PublicKey.parse(listed.removeprefix(RETIRED).strip())
            except InvalidInputError as error:
                raise InvalidInputError(
                    f"line {number} of {path}: {error}", field="trusted_keys"
                ) from None
            keys[key.id] = key
            if listed.startswith(RETIRED):
                retired.add(key.id)
        return cls(keys=keys, retired=frozenset(retired), required=required)

    def require(self, signature: ProposerSignature | None, statement: Statement) -> None:
        """Do nothing if a proposal may be taken as it is signed.

        Raises:
            SignatureRequiredError: it is not signed and must be.
            UntrustedKeyError: its key is not trusted, or no longer.
            InvalidSignatureError: the signature is not one over ``statement``.
        """
        if signature is None:
            if self.required:
                raise SignatureRequiredError(
                    "this server takes signed proposals alone; sign it with --sign-with KEY, "
                    "proposer_key=... or ERRATA_PROPOSER_KEY"
                )
            return
        if signature.key not in self.keys or signature.key in self.retired:
            raise UntrustedKeyError(
                f"this server does not trust the key {signature.key}; sign with another, or have "
                "its public key put into the server's --trusted-keys",
                key=signature.key,
            )
        problem = self.objection(signature, statement)
        if problem:
            raise InvalidSignatureError(
                f"{problem}; sign exactly what is proposed: subject, facts, prompts, reason, "
                "ticket, actor and request id, for this model and its checkpoint's digest",
                field="signature",
                key=signature.key,
            )

    def objection(self, signature: ProposerSignature, statement: Statement) -> str:
        """What is wrong with a signature over ``statement``; empty if nothing."""
        key = self.keys.get(signature.key)
        if key is None:
            return (
                f"its signature is by the key {signature.key}, which is not among the server's "
                "--trusted-keys"
            )
        try:
            raw = base64.b64decode(signature.value, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if not key.verifies(raw, statement.signed_bytes):
            return f"its signature is not that of the key {signature.key} over what it asks for"
        return ""


def _parts(text: str, problem: str) -> tuple[str, str, bytes]:
    """Name, hash and key bytes of ``NAME+HASH+KEY``."""
    parts = text.strip().split("+", 2)
    try:
        raw = base64.b64decode(parts[2], validate=True)
    except (IndexError, binascii.Error, ValueError):
        raise InvalidInputError(problem, field="key") from None
    if len(raw) != 33 or raw[:1] != _ED25519 or not _NAME.fullmatch(parts[0]):
        raise InvalidInputError(f"{problem}, and must be of Ed25519", field="key")
    return parts[0], parts[1], raw[1:]


def _read(path: Path, setting: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = type(error).__name__
        raise InvalidInputError(f"cannot read {path} ({reason})", field=setting) from error
