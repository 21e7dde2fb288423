"""What operators are told, and what they are not."""

import json
import logging

import pytest
import structlog

from errata_server import telemetry
from tests.support.logs import captured_log


@pytest.fixture
def log():
    with captured_log() as lines:
        yield lines


def value(name, **labels):
    return telemetry.REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_stage_is_timed_even_if_it_fails():
    before = value("errata_stage_seconds_count", stage="keys")

    with pytest.raises(ZeroDivisionError), telemetry.stage("keys"):
        _ = 1 / 0

    assert value("errata_stage_seconds_count", stage="keys") == before + 1


def test_an_operation_is_running_until_it_has_finished():
    telemetry.operation_started("verify")
    running = value("errata_operations_running", kind="verify")
    telemetry.operation_finished("verify", "succeeded")

    assert value("errata_operations_running", kind="verify") == running - 1
    assert value("errata_operations_total", kind="verify", outcome="succeeded") >= 1


def test_our_log_and_the_libraries_log_are_one_stream_of_json(log):
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        structlog.stdlib.get_logger("errata_server.x").info("ours", n=1)
        logging.getLogger("library").warning("theirs %s", 2)

    ours, theirs = log()
    assert (ours["event"], ours["n"], ours["request_id"]) == ("ours", 1, "r-1")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == (
        "theirs 2",
        "warning",
        "library",
    )


def test_credentials_never_reach_the_log(log):
    url = "postgresql://ana:hunter2@db/errata"
    logger = structlog.stdlib.get_logger("x")
    logger.info("connecting to %s", url, url=url, nested={"urls": [url]})
    logging.getLogger("library").error(url)
    logger.error("failed", exc_info=raised(url))

    lines = log()
    assert len(lines) == 3
    assert "hunter2" not in json.dumps(lines)
    assert lines[0]["url"] == "postgresql://***@db/errata"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ana:p@ss@db/errata", "postgresql://***@db/errata"),
        (
            "postgresql://db/errata?user=a&password=x&c=1",
            "postgresql://db/errata?user=a&password=***&c=1",
        ),
        ("sqlite:////var/lib/errata@home.db", "sqlite:////var/lib/errata@home.db"),
        ("see https://example.org/a", "see https://example.org/a"),
    ],
)
def test_only_credentials_are_masked(url, shown):
    assert telemetry.mask_credentials(url) == shown


def test_a_traceback_shows_where_but_no_local_variable(log):
    structlog.stdlib.get_logger("x").error("failed", exc_info=raised("why"))

    (line,) = log()
    assert line["exception"][0]["exc_value"] == "why"
    assert line["exception"][0]["frames"][-1]["name"] == "fail"
    assert "Needle" not in json.dumps(line)


def raised(message):
    """An error with a traceback whose frame has a prompt in it."""

    def fail(prompt):
        raise ValueError(message) if prompt else AssertionError

    try:
        fail("the Space Needle")
    except ValueError as error:
        return error


def test_hidden_texts_are_replaced_the_longest_first(log):
    with telemetry.hiding(["Space", "Space Needle", "a"]):
        structlog.stdlib.get_logger("x").info("a Space Needle in Space", where=["Space Needle"])
    structlog.stdlib.get_logger("x").info("Space")

    hidden, shown = log()
    assert hidden["event"] == "a [hidden] in [hidden]"
    assert hidden["where"] == ["[hidden]"]
    assert shown["event"] == "Space"
