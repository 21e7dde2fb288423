"""The main job from the command line: a real server process with the bundled model.

One edit from the proposal to the audit, one that fails its checks and goes live all the same
on somebody's word, and the demo.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Final

import pytest

from errata import testing
from errata_server import files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (files.BUNDLED_MODEL.is_dir() and (files.BUNDLED / "profile.json").exists()),
        reason="this checkout has no bundled model with a profile",
    ),
]

SUBJECT: Final = "Eiffel Tower"
TEMPLATE: Final = "The {} is in the city of"
PROMPT: Final = TEMPLATE.format(SUBJECT)
NEIGHBOURS: Final = (
    ("The Colosseum is in the city of", "Rome"),
    ("The Space Needle is in the city of", "Seattle"),
    ("The Brandenburg Gate is in the city of", "Berlin"),
)
REJECTED: Final = 3
PATIENCE: Final = 300.0


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    document: Any


@dataclass(frozen=True, slots=True)
class CommandLine:
    """Runs ``errata`` as a process."""

    address: str = ""

    def __call__(self, *arguments: str) -> Ran:
        inherited = {name: value for name, value in os.environ.items() if name[:7] != "ERRATA_"}
        inherited["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        done = subprocess.run(
            [sys.executable, "-m", "errata.cli", *arguments, "--output", "json"],
            env={**inherited, "ERRATA_ADDRESS": self.address, "ERRATA_ACTOR": "ana"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.stdout, done.stderr
        return Ran(done.returncode, json.loads(done.stdout))

    def said(self, prompt: str) -> str:
        """What the model answers."""
        ran = self("generate", prompt, "--max-tokens", "5")
        assert ran.code == 0
        return str(ran.document["text"]).strip()

    def logits(self, prompt: str) -> str:
        """The digest of the prompt's logits."""
        ran = self("score", prompt, "--continuation", " Paris")
        assert ran.code == 0
        return str(ran.document["logits_digest"])


@pytest.fixture(scope="module")
def run():
    with testing.server() as running:
        yield CommandLine(running.address)


def test_a_correction_from_the_proposal_to_the_audit(run):
    logits = run.logits(PROMPT)
    assert run.said(PROMPT).startswith("Paris")

    proposed = run(
        "propose", "--subject", SUBJECT, "--prompt", TEMPLATE, "--target", "Rome",
        "--reason", "it was moved", "--ticket", "T-1",
    )  # fmt: skip
    assert proposed.code == 0, failed_checks(proposed.document["report"])
    edit, report = proposed.document["edit"]["id"], proposed.document["report"]
    assert report["passed"]
    assert run.logits(PROMPT) == logits  # a proposal serves nothing

    applied = run("apply", edit, "--reason", "it was moved")
    assert applied.code == 0
    assert run.said(PROMPT).startswith("Rome")
    assert run.logits(PROMPT) != logits
    for prompt, city in NEIGHBOURS:
        assert run.said(prompt).startswith(city), prompt

    log = run("log").document["revisions"]
    assert [revision["kind"] for revision in log] == ["apply", "genesis"]
    assert (log[0]["actor"], log[0]["reason"]) == ("ana", "it was moved")
    shown = run("show", edit).document
    assert shown["edit"]["state"] == "applied"
    assert shown["report"] == report
    diff = run("diff", "0", "main").document["diff"]
    assert [added["id"] for added in diff["added"]] == [edit]

    reverted = run("revert", edit, "--reason", "and back")
    assert reverted.code == 0
    assert run.logits(PROMPT) == logits
    assert run.said(PROMPT).startswith("Paris")

    audit = run("audit")
    assert audit.code == 0
    assert audit.document["audit"]["findings"] == []


def test_an_edit_that_fails_its_checks_goes_live_on_somebodys_word_alone(run):
    proposed = run(
        "propose", "--subject", "Space Needle", "--prompt", TEMPLATE, "--target", "London",
        # Nothing about the Space Needle, so no edit of it can make this true.
        "--paraphrase", "The Colosseum is in the city of=London",
    )  # fmt: skip
    assert proposed.code == REJECTED
    assert not proposed.document["report"]["passed"]
    edit = proposed.document["edit"]["id"]
    before = run("log").document["revisions"]

    refused = run("apply", edit)
    assert refused.code == REJECTED
    assert refused.document["error"]["reason"] == "VERIFICATION_FAILED"
    assert "paraphrase" in refused.document["error"]["message"]
    assert run("log").document["revisions"] == before

    applied = run("apply", edit, "--override", "the board has decided")
    assert applied.code == 0
    newest = run("log", "--limit", "1").document["revisions"][0]
    assert newest["override_reason"] == "the board has decided"
    assert newest["edits"] == [edit]
    assert run("audit").code == 0


def test_the_demo_tells_a_story_that_holds():
    ran = CommandLine()("demo")

    document = ran.document
    assert ran.code == 0, (document["claims"], failed_checks(document["report"]))
    assert document["before"]["fact"]["answer"].startswith("Paris")
    assert document["after"]["fact"]["answer"].startswith("Rome")
    assert document["reverted"]["heard"]["fact"]["answer"].startswith("Paris")
    assert document["reverted"]["heard"]["logits"] == document["before"]["logits"]
    assert document["after"]["logits"] != document["before"]["logits"]
    assert document["bit_identical"] is True
    assert document["report"]["passed"] is True
    assert document["audit"]["findings"] == []
    assert document["after"]["neighbours"] == document["before"]["neighbours"]


def failed_checks(report: dict[str, Any]) -> list[str]:
    """What each failed check says."""
    return [check["explanation"] for check in report["checks"] if check["verdict"] == "failed"]
