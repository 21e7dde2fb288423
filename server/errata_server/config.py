"""Settings: read once from the environment (``ERRATA_*``) and the command line, then frozen.

Invariants: a value is validated here or nowhere; a password never appears in a repr, a log
or an error; nothing else in the server reads the environment.
"""

import ipaddress
import re
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from errata_server.domain.errors import InvalidInputError
from errata_server.domain.ids import ModelId
from errata_server.telemetry import mask_credentials

BUNDLED: Final = "bundled"
"""The model that comes with errata."""

_MODEL_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NOT_IN_MODEL_ID: Final = re.compile(r"[^a-z0-9._-]+")
_BRANCH: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ADDRESS: Final = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]+):(?P<port>\d{1,5})")
_HIGHEST_PORT: Final = 65_535
_MEBIBYTE: Final = 1024 * 1024


class Settings(BaseSettings):
    """Everything that can be told to a server; `load_settings` makes one."""

    model_config = SettingsConfigDict(
        env_prefix="ERRATA_",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_ignore_empty=True,
        protected_namespaces=(),
    )

    model: str = Field(default=BUNDLED, min_length=1)
    """A checkpoint's directory, a hub id, or ``bundled``."""

    model_id: ModelId = ModelId("")
    """Names the model's history in the ledger; made from ``model`` where empty."""

    ledger: str = Field(default="sqlite:///errata.db", min_length=1, repr=False)
    """URL of the ledger's database."""

    follow: str = Field(default="", max_length=128)
    """A branch to follow: the server becomes a replica, which changes nothing in the ledger."""

    advertise: str = Field(default="", max_length=256)
    """Where other servers say that this one is reached; its listening address where empty."""

    lease_seconds: float = Field(default=15.0, ge=1, le=3_600, allow_inf_nan=False)
    """How long others wait before they carry out operations after this server has vanished."""

    read_wait_seconds: float = Field(default=5.0, ge=0, le=600, allow_inf_nan=False)
    """Most a read waits for a ``min_sequence`` that is not served here yet."""

    listen: str = "127.0.0.1:50051"
    """Host and port, or ``unix:PATH``; port 0 takes any free one."""

    metrics_port: int | None = Field(default=None, ge=0, le=_HIGHEST_PORT)
    """Port of the metrics endpoint on loopback; none where unset, 0 takes any free one."""

    insecure: bool = False
    """Allow other machines to connect, unencrypted and unauthenticated."""

    policy: Path | None = None
    """JSON file of thresholds; see `errata_server.domain.policies.Policy`."""

    known_facts: Path | None = None
    """JSON file of facts the model holds; the bundled model's own where unset."""

    texts: Path | None = None
    """Ordinary texts, one a line or a JSON list; the bundled ones where unset."""

    cache: Path = Field(default_factory=lambda: Path.home() / ".cache" / "errata")
    """Where second moments are kept between runs."""

    device: str = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    max_message_bytes: int = Field(default=16 * _MEBIBYTE, ge=64 * 1024, le=1024 * _MEBIBYTE)
    max_concurrent_rpcs: int = Field(default=256, ge=1)
    drain_seconds: float = Field(default=20.0, ge=0, le=3_600, allow_inf_nan=False)
    """How long calls in flight may take to finish after SIGTERM."""

    trace_memory_mib: int = Field(default=1_024, ge=1, le=1_048_576)
    """Most memory a trace's cells in flight may take; what a request gets that asks for none."""

    signing_key: Path | None = None
    """Private key that signs ledger checkpoints; they are unsigned where unset."""

    trusted_keys: Path | None = None
    """Public keys of proposers, one a line; ``retired`` before one takes nothing new from it."""

    require_signatures: bool = False
    """Refuse proposals that no trusted key has signed."""

    ready_file: Path | None = None
    """Written once the server is ready, with its addresses and process id."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, value: str) -> str:
        if not value.startswith("unix:"):
            split_address(value)
        return value

    @field_validator("advertise")
    @classmethod
    def _advertise_is_an_address(cls, value: str) -> str:
        return cls._listen_is_an_address(value) if value else value

    @field_validator("follow")
    @classmethod
    def _follow_is_a_branch(cls, value: str) -> str:
        if value and not _BRANCH.fullmatch(value):
            raise ValueError("must be a branch's name, such as main")
        return value

    @model_validator(mode="before")
    @classmethod
    def _model_id_from_model(cls, values: dict[str, Any]) -> dict[str, Any]:
        if not values.get("model_id"):
            values["model_id"] = _slug(str(values.get("model", BUNDLED)))
        return values

    @field_validator("model_id")
    @classmethod
    def _model_id_is_a_slug(cls, value: ModelId) -> ModelId:
        if not _MODEL_ID.fullmatch(value):
            raise ValueError("must be lower-case letters, digits, dots, dashes or underscores")
        return value

    @model_validator(mode="after")
    def _stays_on_this_machine(self) -> Self:
        if not self.insecure and not is_loopback(self.listen):
            raise ValueError(
                "listen opens the server to other machines without encryption or "
                "authentication; listen on 127.0.0.1, or say insecure if the network is trusted"
            )
        return self

    @model_validator(mode="after")
    def _some_key_may_sign(self) -> Self:
        if self.require_signatures and self.trusted_keys is None:
            raise ValueError(
                "require_signatures refuses every proposal without keys to trust; name a file of "
                "public keys with trusted_keys"
            )
        return self

    @property
    def shown_ledger(self) -> str:
        """The ledger's URL without its credentials."""
        return mask_credentials(self.ledger)


def load_settings(**given: object) -> Settings:
    """Settings from the environment, overridden by those ``given`` that are not None.

    Raises:
        InvalidInputError: a value is not allowed; the message names each such setting.
    """
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**chosen)
    except ValidationError as error:
        complaints = [_complaint(dict(item)) for item in error.errors(include_url=False)]
        fields = ",".join(str(item["loc"][0]) for item in error.errors() if item["loc"])
        raise InvalidInputError("; ".join(complaints), field=fields or "listen") from None


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, brackets around an IPv6 host removed.

    Raises:
        ValueError: it has another form.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > _HIGHEST_PORT:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:50051")
    return match["host"].strip("[]"), int(match["port"])


def is_loopback(address: str) -> bool:
    """Whether only this machine can connect to ``address``."""
    if address.startswith("unix:"):
        return True
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host's name: this one alone is loopback everywhere
        return host == "localhost"


def _complaint(error: dict[str, Any]) -> str:
    text = str(error["msg"]).removeprefix("Value error, ")
    names = " ".join(str(part) for part in error["loc"])
    return f"{names}: {text[:1].lower()}{text[1:]}" if names else text


def _slug(model: str) -> str:
    """A model id from the last part of a path or a hub id."""
    last = model.rstrip("/").rpartition("/")[2].lower()
    return _NOT_IN_MODEL_ID.sub("-", last).strip("-._")[:63] or "model"
