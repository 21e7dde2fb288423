"""CounterFact and zsRE files, as published, read into cases.

CounterFact (arXiv:2202.05262) is a JSON list of records with ``requested_rewrite``; zsRE, in
the form MEND and ROME use, one of records with ``src``. Invariant: a file that is neither, or
a record that lacks something, is refused by name and number.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.editing.cases import Case
from errata_server.domain.errors import ErrataError, InvalidInputError
from errata_server.domain.facts import CheckPrompt, EditRequest, Fact

QUESTION: Final = "nq question: "
"""What zsRE's unrelated questions begin with."""

Record = Mapping[str, Any]


def read_cases(path: Path) -> list[Case]:
    """Every record of the CounterFact or zsRE file at ``path``.

    Raises:
        InvalidInputError: the file cannot be read or is neither, or a record lacks something.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot read {path}: {error}", field="facts", file=path) from error
    if not isinstance(records, list) or not records:
        raise InvalidInputError(
            f"{path} is no JSON list of records; give a CounterFact or zsRE file as published",
            field="facts",
            file=path,
        )
    return [_case(path, number, record) for number, record in enumerate(records)]


def _case(path: Path, number: int, record: Any) -> Case:  # noqa: ANN401 - what JSON holds
    make: Callable[[Record], Case]
    if isinstance(record, dict) and "requested_rewrite" in record:
        make = _counterfact
    elif isinstance(record, dict) and "src" in record:
        make = _zsre
    else:
        raise InvalidInputError(
            f"record {number} of {path} is neither CounterFact's (requested_rewrite) nor "
            "zsRE's (src)",
            field="facts",
            record=number,
        )
    try:
        return make(record)
    except (KeyError, IndexError, TypeError, AttributeError, ErrataError) as error:
        raise InvalidInputError(
            f"record {number} of {path} is malformed: {type(error).__name__} {error}",
            field="facts",
            record=number,
        ) from error


def _counterfact(record: Record) -> Case:
    rewrite = record["requested_rewrite"]
    target, true = rewrite["target_new"]["str"], rewrite["target_true"]["str"]
    request = EditRequest(
        subject=rewrite["subject"], facts=(Fact(template=rewrite["prompt"], target=target),)
    )
    return Case(
        request=request,
        true=true.strip(),
        efficacy=_efficacy(request),
        paraphrases=_prompts(record["paraphrase_prompts"], target),
        neighbours=_prompts(record["neighborhood_prompts"], true),
    )


def _zsre(record: Record) -> Case:
    subject, target = record["subject"], record["answers"][0]
    request = EditRequest(
        subject=subject, facts=(Fact.parse(subject=subject, prompt=record["src"], target=target),)
    )
    # What the unrelated question's answer was before is its right answer: there is no other.
    unrelated = record["loc"].removeprefix(QUESTION).rstrip("?") + "?"
    return Case(
        request=request,
        true="",  # the format names no true object to compare likelihoods with
        efficacy=_efficacy(request),
        paraphrases=_prompts([record["rephrase"]], target),
        neighbours=_prompts([unrelated], record["loc_ans"]),
    )


def _efficacy(request: EditRequest) -> CheckPrompt:
    (fact,) = request.facts
    return CheckPrompt(prompt=fact.prompt(request.subject), expected=fact.target)


def _prompts(texts: list[str], expected: str) -> tuple[CheckPrompt, ...]:
    return tuple(CheckPrompt(prompt=text, expected=expected) for text in texts)
