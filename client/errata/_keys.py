"""Ed25519 keys as C2SP signed-note spells them; the one module that uses ``cryptography``.

Invariants: ``cryptography`` is imported when a signature is made or checked and not before; no
error and no repr repeats a private key; a private key's file is made readable to its owner
alone, and is never written over.
"""

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Final, Self

from errata._errors import InvalidInputError, MissingExtraError

_ALGORITHM: Final = b"\x01"
_PRIVATE: Final = "PRIVATE+KEY+"
_NAME: Final = re.compile(r"[^\s+\x00-\x1f]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A key that signatures are checked with."""

    name: str
    raw: bytes

    @property
    def hash(self) -> bytes:
        """Four bytes that tell keys of one name apart."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ALGORITHM + self.raw).digest()[:4]

    @property
    def id(self) -> str:
        """Name and hash, as signatures name the key: ``errata+5f1d0c2e``."""
        return f"{self.name}+{self.hash.hex()}"

    def __str__(self) -> str:
        return f"{self.id}+{base64.b64encode(_ALGORITHM + self.raw).decode()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of ``str``: what ``errata keygen`` printed.

        Raises:
            InvalidInputError: it is no public key, or its hash belongs to another.
        """
        name, given, raw = _parts(text, f"{text[:80]!r} is no public key: NAME+HASH+KEY")
        key = cls(name=name, raw=raw)
        if key.hash.hex() != given:
            raise InvalidInputError(
                f"the hash of the key {name!r} belongs to another key; copy the whole line again",
                {"field": "key"},
            )
        return key

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` is this key's over ``message``.

        Raises:
            MissingExtraError: ``cryptography`` is not installed.
        """
        algorithm = _ed25519()
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - is installed

        try:
            algorithm.Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
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
        """What its signatures are checked with.

        Raises:
            MissingExtraError: ``cryptography`` is not installed.
        """
        private = _ed25519().Ed25519PrivateKey.from_private_bytes(self.seed)
        return PublicKey(name=self.name, raw=private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """The signature over ``message``.

        Raises:
            MissingExtraError: ``cryptography`` is not installed.
        """
        private = _ed25519().Ed25519PrivateKey.from_private_bytes(self.seed)
        signature: bytes = private.sign(message)
        return signature

    @classmethod
    def generate(cls, name: str) -> Self:
        """A fresh key.

        Raises:
            InvalidInputError: the name is empty, or holds a space or a plus sign.
            MissingExtraError: ``cryptography`` is not installed.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInputError(
                f"a key cannot be named {name!r}; leave out spaces and plus signs",
                {"field": "name"},
            )
        return cls(name=name, seed=_ed25519().Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The key a file holds.

        Raises:
            InvalidInputError: the file cannot be read, or holds no private key.
        """
        problem = f"{path} holds no private key; make one with `errata keygen`"
        text = read_text(path).strip()
        if not text.startswith(_PRIVATE):
            raise InvalidInputError(problem, {"field": "key"})
        name, given, seed = _parts(text.removeprefix(_PRIVATE), problem)
        key = cls(name=name, seed=seed)
        if key.public.hash.hex() != given:
            raise InvalidInputError(problem, {"field": "key"})
        return key

    def write(self, path: str | Path) -> None:
        """Write the key where its owner alone can read it.

        Raises:
            InvalidInputError: the file is there already, or cannot be written.
        """
        encoded = base64.b64encode(_ALGORITHM + self.seed).decode()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise InvalidInputError(
                f"cannot write {path} ({error.strerror}); a key is never written over",
                {"field": "file"},
            ) from error
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{_PRIVATE}{self.public.id}+{encoded}\n")


def public_keys(given: Iterable[PublicKey | str]) -> tuple[PublicKey, ...]:
    """Keys that are given as such or spelled out.

    Raises:
        InvalidInputError: one is no public key.
    """
    listed = (given,) if isinstance(given, str) else given
    return tuple(PublicKey.parse(key) if isinstance(key, str) else key for key in listed)


def read_public_keys(path: str | Path) -> tuple[PublicKey, ...]:
    """The public keys a file lists, one a line; lines that begin with ``#`` say something else.

    Raises:
        InvalidInputError: the file cannot be read, or a line of it is no public key.
    """
    lines = (line.strip() for line in read_text(path).splitlines())
    return public_keys(line for line in lines if line and not line.startswith("#"))


def read_text(path: str | Path) -> str:
    """What a file says.

    Raises:
        InvalidInputError: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(
            f"cannot read {path}: {error.strerror}", {"file": str(path)}
        ) from error
    except ValueError as error:  # of the bytes, or a null character in the name
        raise InvalidInputError(f"{path} is no file of UTF-8 text", {"file": str(path)}) from error


def _ed25519() -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "signatures need cryptography, which is not installed; run pip install "
            "'errata[verify]'",
            {"module": "cryptography", "extra": "verify"},
        ) from error
    return ed25519


def _parts(text: str, problem: str) -> tuple[str, str, bytes]:
    """Name, hash and key bytes of ``NAME+HASH+KEY``."""
    parts = text.strip().split("+", 2)
    try:
        raw = base64.b64decode(parts[2], validate=True)
    except (IndexError, binascii.Error, ValueError):
        raise InvalidInputError(problem, {"field": "key"}) from None
    if len(raw) != 33 or raw[:1] != _ALGORITHM or not _NAME.fullmatch(parts[0]):
        raise InvalidInputError(problem, {"field": "key"})
    return parts[0], parts[1], raw[1:]
