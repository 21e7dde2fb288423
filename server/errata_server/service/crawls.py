"""Crawling what the model says around a subject at two revisions.

Invariants: both revisions are pinned before the operation is submitted and asked the same
questions; at most so many prompts are asked as the request allows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Final

from errata_server import telemetry
from errata_server.domain.answers import begins_with
from errata_server.domain.crawls import (
    Belief,
    Crawl,
    CrawledRelation,
    CrawledRevision,
    CrawlRequest,
    belief,
)
from errata_server.domain.edits import Edit
from errata_server.domain.generation import GenerationOptions
from errata_server.domain.ids import Digest
from errata_server.domain.known_facts import KnownFacts
from errata_server.domain.operations import Operation, OperationKind, ReportProgress
from errata_server.ledger.ledger import Ledger
from errata_server.service import crawl_questions as ask
from errata_server.service import results
from errata_server.service.calls import Call
from errata_server.service.crawl_questions import Question
from errata_server.service.operations import Operations
from errata_server.service.ports import Engine
from errata_server.service.serving import BASE_REFERENCE, Serving
from errata_server.service.views import Pinned

ANSWER_TOKENS: Final = 12
RELATION_TOKENS: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crawls:
    """Asks one model around a subject."""

    engine: Engine
    ledger: Ledger
    serving: Serving
    operations: Operations
    known_facts: KnownFacts

    def crawl(self, request: CrawlRequest, at: str, against: str, call: Call) -> Operation:
        """Ask at revision ``at`` (main's head where empty) and ``against`` (the base).

        Raises:
            RevisionNotFoundError: one of them names no revision.
            RequestIdReusedError: the request id was used for something else.
        """
        after = self.serving.at(at)
        before = self.serving.at(against or BASE_REFERENCE)

        def work(progress: ReportProgress) -> dict[str, Any]:
            walk = _Walk(crawls=self, request=request, pinned=(before, after), progress=progress)
            with telemetry.stage(OperationKind.CRAWL.value):
                found = walk.crawl()
            return {"artifact": self.ledger.put_artifact(results.encode(found))}

        with telemetry.hiding((request.subject,)):
            return self.operations.submit(
                OperationKind.CRAWL,
                actor=call.actor,
                request_id=call.request_id,
                request_digest=call.digest(
                    "crawl", request=asdict(request), at=at, against=against
                ),
                work=work,
            )

    def result(self, digest: Digest) -> Crawl:
        """What an operation stored.

        Raises:
            NotFoundError: the ledger does not hold it.
            InvalidInputError: the artifact is something else.
        """
        return results.decode(Crawl, self.ledger.artifact(digest))


@dataclass(slots=True, kw_only=True, eq=False)
class _Walk:
    """One crawl under way."""

    crawls: Crawls
    request: CrawlRequest
    pinned: tuple[Pinned, Pinned]
    """What is compared with, and what is asked about."""

    progress: ReportProgress
    asked: int = 0
    """Prompts, at each revision."""

    relations: list[CrawledRelation] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def crawl(self) -> Crawl:
        started = perf_counter()
        request = self.request
        subjects, seen = [request.subject], {request.subject.casefold()}
        for depth in range(1, request.depth + 1):
            found = self._level(subjects, depth)
            self.relations += found
            subjects = list(_new_subjects(found, seen))
        before, after = (_revision(pinned) for pinned in self.pinned)
        return Crawl(
            subject=request.subject,
            before=before,
            after=after,
            known_relations=bool(self._known.templates),
            depth=request.depth,
            paraphrases=request.paraphrases,
            prompts=2 * self.asked,
            relations=tuple(self.relations),
            warnings=tuple(self.warnings),
            seconds=perf_counter() - started,
        )

    @property
    def _known(self) -> KnownFacts:
        return self.crawls.known_facts

    def _level(self, subjects: Sequence[str], depth: int) -> list[CrawledRelation]:
        """Every relation of ``subjects``, as far as the prompts allowed go."""
        questions: list[Question] = []
        for subject in subjects:
            questions += self._affordable(self._questions(subject, depth))
        prompts = [prompt for question in questions for prompt in question.prompts]
        said = [iter(self._answers(prompts, ANSWER_TOKENS, pinned)) for pinned in self.pinned]
        found = []
        for question in questions:
            objects = {fact.object for fact in self._known.of_relation(question.relation)}
            before, after = (
                belief([next(answers) for _ in question.prompts], objects) for answers in said
            )
            found.append(self._relation(question, before, after))
        return found

    def _questions(self, subject: str, depth: int) -> Iterator[Question]:
        paraphrases = self.request.paraphrases
        if self._known.templates:
            yield from ask.known_questions(self._known, subject, depth, paraphrases)
            return
        prompts = ask.relation_prompts(subject)
        if self.asked + len(prompts) > self.request.max_prompts:
            self._warn_of_limit()
            return
        self.asked += len(prompts)
        listed = [
            answer
            for pinned in self.pinned
            for answer in self._answers(prompts, RELATION_TOKENS, pinned)
        ]
        for relation in ask.read_relations(listed):
            yield ask.free_question(subject, relation, depth, paraphrases)

    def _affordable(self, questions: Iterator[Question]) -> Iterator[Question]:
        for question in questions:
            if self.asked + len(question.prompts) > self.request.max_prompts:
                self._warn_of_limit()
                return
            self.asked += len(question.prompts)
            yield question

    def _warn_of_limit(self) -> None:
        text = (
            f"the crawl ended at {self.request.max_prompts} prompts a revision; allow more to go on"
        )
        if text not in self.warnings:
            self.warnings.append(text)

    def _answers(self, prompts: Sequence[str], tokens: int, pinned: Pinned) -> tuple[str, ...]:
        options = GenerationOptions(max_new_tokens=tokens)
        return self.crawls.engine.continue_prompts(
            prompts, options, pinned.weights, progress=self.progress
        )

    def _relation(self, question: Question, before: Belief, after: Belief) -> CrawledRelation:
        return CrawledRelation(
            subject=question.subject,
            relation=question.relation,
            depth=question.depth,
            questions=question.questions,
            before=before,
            after=after,
            edit=self._edit_that_says(question, after if after.object else before),
            known=question.known,
        )

    def _edit_that_says(self, question: Question, said: Belief) -> str:
        """The edit by which the revisions differ that is about this very relation."""
        for edit in self._differing_edits(question.subject):
            for fact in edit.request.facts:
                relation = self._known.relation_of(fact.template)
                meant = relation == question.relation if relation else False
                if meant or (relation is None and begins_with(said.object, fact.target)):
                    return edit.id
        return ""

    def _differing_edits(self, subject: str) -> list[Edit]:
        before, after = (set(pinned.applied.active()) for pinned in self.pinned)
        manifest = self.crawls.serving.artifacts.manifest
        named = (one for one in before ^ after if subject in manifest(one.patch).names)
        return [self.crawls.ledger.edit(edit) for edit in sorted(one.edit for one in named)]


def _new_subjects(found: Sequence[CrawledRelation], seen: set[str]) -> Iterator[str]:
    """Objects not asked about yet, those of changed relations first."""
    changed_first = sorted(found, key=lambda one: one.before.object == one.after.object)  # stable
    for relation in changed_first:
        for name in (relation.after.object, relation.before.object):
            if name and name.casefold() not in seen:
                seen.add(name.casefold())
                yield name


def _revision(pinned: Pinned) -> CrawledRevision:
    revision = pinned.revision
    return CrawledRevision(
        revision=revision.id,
        sequence=revision.sequence,
        branch=revision.branch,
        weights_digest=pinned.weights.digest,
    )
