"""A real server process of one's own."""

import importlib.util
import os

import pytest

import errata
from errata import testing


def test_without_the_server_installed_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else object()
    )

    with (
        pytest.raises(testing.ServerNotInstalledError, match=r"errata\[server\]"),
        testing.server(),
    ):
        pytest.fail("there is nothing to start")


def test_a_server_that_ends_before_it_is_ready_says_why():
    with (
        pytest.raises(errata.UnavailableError, match="HOST:PORT") as failure,
        testing.server(arguments=["--listen", "nonsense"]),
    ):
        pytest.fail("it cannot be ready")

    assert failure.value.metadata == {"exit_code": "2"}


def test_a_server_that_takes_too_long_is_stopped():
    with (
        pytest.raises(errata.UnavailableError, match=r"within 0\.01 seconds"),
        testing.server(timeout=0.01),
    ):
        pytest.fail("it cannot be ready")


@pytest.mark.slow
def test_a_server_process_serves_a_checkpoint_and_is_gone_afterwards(tmp_path, monkeypatch):
    from tests.support.tiny_models import write_gpt2

    monkeypatch.setenv("ERRATA_LISTEN", "nonsense")  # the caller's settings are not its own

    with testing.server(str(write_gpt2(tmp_path / "tiny"))) as running:
        with errata.Client(running.address) as client:
            assert client.model().architecture == "gpt2"
            assert client.head().revision.kind is errata.RevisionKind.GENESIS
            assert client.audit().clean
        assert running.metrics_url.endswith("/metrics")
        assert "ready" in running.log.read_text(encoding="utf-8")
        os.kill(running.process_id, 0)

    with pytest.raises(ProcessLookupError):
        os.kill(running.process_id, 0)
    assert not running.log.exists()
