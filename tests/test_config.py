"""Settings from the environment and the command line."""

import pytest

from errata_server.config import is_loopback, load_settings
from errata_server.domain.errors import InvalidInputError

DSN = "postgresql+psycopg://errata:hunter2@db.example/errata"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    import os

    for name in [name for name in os.environ if name.startswith("ERRATA_")]:
        monkeypatch.delenv(name)


def test_a_server_with_no_settings_serves_the_bundled_model_on_loopback():
    settings = load_settings()

    assert (settings.model, settings.model_id) == ("bundled", "bundled")
    assert settings.listen == "127.0.0.1:50051"
    assert settings.ledger == "sqlite:///errata.db"
    assert settings.metrics_port is None
    assert not settings.insecure


def test_the_environment_is_read_and_the_command_line_wins(monkeypatch):
    monkeypatch.setenv("ERRATA_LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("ERRATA_METRICS_PORT", "9")
    monkeypatch.setenv("ERRATA_LEDGER", "")

    settings = load_settings(listen="127.0.0.1:2", metrics_port=None)

    assert settings.listen == "127.0.0.1:2"
    assert settings.metrics_port == 9
    assert settings.ledger == "sqlite:///errata.db"


@pytest.mark.parametrize(
    ("model", "model_id"),
    [
        ("/models/GPT2 XL/", "gpt2-xl"),
        ("EleutherAI/gpt-j-6b", "gpt-j-6b"),
        ("./..", "model"),
        ("x" * 99, "x" * 63),
    ],
)
def test_a_model_s_name_in_the_ledger_comes_from_its_source(model, model_id):
    assert load_settings(model=model).model_id == model_id
    assert load_settings(model=model, model_id="mine").model_id == "mine"


def test_a_password_is_nowhere_to_be_seen():
    settings = load_settings(ledger=DSN)

    assert "hunter2" not in repr(settings) + str(settings) + settings.shown_ledger
    assert settings.shown_ledger == "postgresql+psycopg://***@db.example/errata"
    assert settings.ledger == DSN


def test_a_refused_setting_does_not_show_a_password():
    with pytest.raises(InvalidInputError) as refused:
        load_settings(ledger=DSN, device=["no", DSN], metrics_port=DSN)

    assert "hunter2" not in str(refused.value) + repr(refused.value.metadata)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"listen": "50051"}, "listen: must be HOST:PORT"),
        ({"listen": "127.0.0.1:99999"}, "listen: must be HOST:PORT"),
        ({"listen": "::1:50051"}, "listen: must be HOST:PORT"),
        ({"advertise": "x"}, "advertise: must be HOST:PORT"),
        ({"advertise": "http://a:1"}, "advertise: must be HOST:PORT"),
        ({"metrics_port": -1}, "metrics_port: "),
        ({"metrics_port": 70_000}, "metrics_port: "),
        ({"drain_seconds": float("nan")}, "drain_seconds: "),
        ({"drain_seconds": -1}, "drain_seconds: "),
        ({"dtype": "int8"}, "dtype: "),
        ({"model_id": "Not A Slug"}, "model_id: must be lower-case"),
        ({"max_message_bytes": 10}, "max_message_bytes: "),
        ({"max_concurrent_rpcs": 0}, "max_concurrent_rpcs: "),
        ({"colour": "red"}, "colour: "),
    ],
)
def test_a_bad_value_is_named_in_a_sentence(given, complaint):
    with pytest.raises(InvalidInputError) as refused:
        load_settings(**given)

    assert str(refused.value).startswith(complaint)
    assert "\n" not in str(refused.value)


def test_every_bad_value_is_named_at_once():
    with pytest.raises(InvalidInputError, match=r"metrics_port: .*; dtype: "):
        load_settings(metrics_port=-1, dtype="int8")


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:0", "127.8.8.8:1", "[::1]:1", "localhost:1", "unix:/run/errata.sock"],
)
def test_loopback_needs_no_permission(address):
    assert is_loopback(address)
    assert load_settings(listen=address).listen == address


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"])
def test_other_machines_may_connect_only_if_that_is_said(address):
    with pytest.raises(InvalidInputError, match="say insecure if the network is trusted"):
        load_settings(listen=address)

    assert load_settings(listen=address, insecure=True).listen == address


def test_settings_do_not_change():
    settings = load_settings()

    with pytest.raises(Exception, match="frozen"):
        settings.model = "other"
