"""The calls of suites, health and crawls as data, as in `errata._calls`; pure."""

from collections.abc import Iterable
from typing import Unpack

from google.longrunning import operations_pb2

from errata import _messages as messages
from errata import _operation_status as operation_status
from errata import _upkeep_messages as upkeep
from errata._arguments import checked, members
from errata._call_types import Call, Pages
from errata._crawls import Crawl
from errata._health import LiveVerification, ModelHealth
from errata._operation_status import OperationStatus
from errata._options import CrawlOptions, LiveOptions, SuiteOptions
from errata._suites import Suite
from errata._types import CheckPrompt, Page
from errata.v1 import crawls_pb2, edits_pb2, models_pb2, suites_pb2

_SUITES = "errata.v1.SuiteService"


@checked
def add_suite(
    name: str, prompts: Iterable[CheckPrompt], **options: Unpack[SuiteOptions]
) -> Call[suites_pb2.AddSuiteResponse, Suite]:
    """Store the next version of a suite."""
    listed = members(prompts, CheckPrompt, "prompts")
    return Call(
        method=f"/{_SUITES}/AddSuite",
        reply=suites_pb2.AddSuiteResponse,
        build=lambda scope: suites_pb2.AddSuiteRequest(
            parent=scope.model,
            suite=name,
            prompts=[messages.prompt_message(prompt) for prompt in listed],
            reason=options.get("reason", ""),
            **scope.signature(options),
        ),
        parse=lambda message: upkeep.suite(message.suite),
    )


@checked
def get_suite(name: str) -> Call[suites_pb2.GetSuiteResponse, Suite]:
    """Read a version of a suite, the latest where the name has none."""
    return Call(
        method=f"/{_SUITES}/GetSuite",
        reply=suites_pb2.GetSuiteResponse,
        build=lambda scope: suites_pb2.GetSuiteRequest(name=scope.name("suites", name)),
        parse=lambda message: upkeep.suite(message.suite),
    )


@checked
def list_suites(name: str, page_size: int) -> Pages[Suite]:
    """Read the latest version of every suite, or all versions of one."""
    return lambda token: Call(
        method=f"/{_SUITES}/ListSuites",
        reply=suites_pb2.ListSuitesResponse,
        build=lambda scope: suites_pb2.ListSuitesRequest(
            parent=scope.model, suite=name, page_size=page_size, page_token=token
        ),
        parse=lambda message: Page(
            items=tuple(upkeep.suite(suite) for suite in message.suites),
            next_token=message.next_page_token,
        ),
    )


def get_health() -> Call[models_pb2.GetModelHealthResponse, ModelHealth]:
    """Read how far the live edits have moved the model."""
    return Call(
        method="/errata.v1.ModelService/GetModelHealth",
        reply=models_pb2.GetModelHealthResponse,
        build=lambda scope: models_pb2.GetModelHealthRequest(name=scope.model),
        parse=lambda message: upkeep.health(message.health),
    )


@checked
def verify_live(
    **options: Unpack[LiveOptions],
) -> Call[operations_pb2.Operation, OperationStatus[LiveVerification]]:
    """Start to ask live edits for their facts again."""
    return Call(
        method="/errata.v1.EditService/VerifyLiveEdits",
        reply=operations_pb2.Operation,
        build=lambda scope: edits_pb2.VerifyLiveEditsRequest(
            parent=scope.model,
            sample=options.get("sample"),
            seed=options.get("seed", 0),
            **scope.signature(options),
        ),
        parse=operation_status.parse,
    )


@checked
def crawl(
    subject: str, **options: Unpack[CrawlOptions]
) -> Call[operations_pb2.Operation, OperationStatus[Crawl]]:
    """Start to ask around a subject."""
    return Call(
        method="/errata.v1.CrawlService/CrawlSubject",
        reply=operations_pb2.Operation,
        build=lambda scope: crawls_pb2.CrawlSubjectRequest(
            parent=scope.model,
            subject=subject,
            revision=scope.revision(options.get("revision", "")),
            against=scope.revision(options.get("against", "")),
            depth=options.get("depth"),
            paraphrases=options.get("paraphrases"),
            max_prompts=options.get("max_prompts"),
            **scope.signature(options),
        ),
        parse=operation_status.parse,
    )
