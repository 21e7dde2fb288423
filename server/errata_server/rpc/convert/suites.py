"""Suites: regression prompts as their owner stores and reads them."""

from collections.abc import Sequence

from errata.v1 import suites_pb2, types_pb2
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.facts import CheckPrompt
from errata_server.domain.ids import ModelId, SuiteName
from errata_server.domain.suites import MOST_PROMPTS, SuiteReference, SuiteVersion, suite_name
from errata_server.rpc.convert import names, values
from errata_server.service.views import SuiteView


def prompts(
    messages: Sequence[types_pb2.CheckPrompt], field: str, *, at_most: int = MOST_PROMPTS
) -> tuple[CheckPrompt, ...]:
    """Prompts with their expected answers.

    Raises:
        InvalidInputError: there are too many, or one is malformed.
    """
    if len(messages) > at_most:
        raise InvalidInputError(
            f"{field} has {len(messages)} prompts; at most {at_most} are allowed",
            field=field,
            limit=at_most,
        )
    return tuple(_prompt(prompt, f"{field}[{place}]") for place, prompt in enumerate(messages))


def _prompt(message: types_pb2.CheckPrompt, path: str) -> CheckPrompt:
    with values.within(path):
        return CheckPrompt(prompt=message.prompt, expected=message.expected)


def prompt_message(prompt: CheckPrompt) -> types_pb2.CheckPrompt:
    """A prompt with its expected answer."""
    return types_pb2.CheckPrompt(prompt=prompt.prompt, expected=prompt.expected)


def named_suite(name: str, field: str) -> tuple[ModelId, SuiteName, int | None]:
    """Model, suite and version of ``models/*/suites/NAME`` or ``models/*/suites/NAME@VERSION``.

    Raises:
        InvalidInputError: the name has another form.
    """
    model, reference = names.suite_reference(name, field)
    own, separator, version = reference.partition("@")
    if separator and not (version.isdecimal() and len(version) < 10):
        raise InvalidInputError(
            f"{field} is {name!r}; a version is a number, as in capitals@3", field=field
        )
    with values.within(field):
        return model, suite_name(own), int(version) if separator else None


def suite_message(view: SuiteView) -> suites_pb2.Suite:
    """A version with its prompts."""
    message = version_message(view.version)
    message.prompts.extend(prompt_message(prompt) for prompt in view.prompts)
    return message


def version_message(version: SuiteVersion) -> suites_pb2.Suite:
    """A version without its prompts."""
    return suites_pb2.Suite(
        name=names.suite_name(version.model, str(version.reference)),
        version=version.version,
        digest=version.artifact,
        prompt_count=version.prompts,
        actor=version.actor,
        reason=version.reason,
        create_time=values.timestamp(version.created_at),
    )


def reference_message(model: ModelId, reference: SuiteReference) -> types_pb2.SuiteReference:
    """A version as a report names it."""
    return types_pb2.SuiteReference(
        name=names.suite_name(model, str(reference)), digest=reference.digest
    )
