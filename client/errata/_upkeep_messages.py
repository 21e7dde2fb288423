"""Messages of suites, health and crawls as the client's own types; pure.

Invariant: an enum value of a newer server that this client does not know reads as
``UNSPECIFIED``.
"""

from errata import _messages as messages
from errata._crawls import Belief, Crawl, CrawlChange, CrawledRelation
from errata._health import CheckedEdit, LayerHealth, LiveVerification, ModelHealth
from errata._suites import Suite
from errata._types import short
from errata.v1 import crawls_pb2, edits_pb2, suites_pb2, types_pb2

_CHANGES = {
    crawls_pb2.CRAWL_CHANGE_SAME: CrawlChange.SAME,
    crawls_pb2.CRAWL_CHANGE_OTHER: CrawlChange.OTHER,
    crawls_pb2.CRAWL_CHANGE_GAINED: CrawlChange.GAINED,
    crawls_pb2.CRAWL_CHANGE_LOST: CrawlChange.LOST,
    crawls_pb2.CRAWL_CHANGE_UNKNOWN: CrawlChange.UNKNOWN,
}


def suite(message: suites_pb2.Suite) -> Suite:
    """`Suite` of the wire."""
    return Suite(
        name=message.name,
        version=message.version,
        digest=message.digest,
        prompts=tuple(messages.prompt(prompt) for prompt in message.prompts),
        prompt_count=message.prompt_count,
        actor=message.actor,
        reason=message.reason,
        created_at=messages.time(message.create_time),
    )


def health(message: types_pb2.ModelHealth) -> ModelHealth:
    """`ModelHealth` of the wire."""
    return ModelHealth(
        served=messages.served(message.served),
        verdict=messages.verdict(message.verdict),
        live_edits=message.live_edits,
        perplexity_base=message.perplexity_base,
        perplexity=message.perplexity,
        warn_drift=message.warn_drift,
        maximum_drift=message.maximum_drift,
        layers=tuple(_layer(layer) for layer in message.layers),
        warnings=tuple(message.warnings),
    )


def _layer(message: types_pb2.LayerHealth) -> LayerHealth:
    return LayerHealth(
        layer=message.layer,
        module=message.module,
        live_edits=message.live_edits,
        keys=message.keys,
        width=message.width,
        firings=message.firings,
        ordinary_keys=message.ordinary_keys,
        disturbance=message.disturbance,
        budget=message.budget if message.HasField("budget") else None,
        limited_by=message.limited_by,
    )


def live_verification(message: edits_pb2.LiveVerification) -> LiveVerification:
    """`LiveVerification` of the wire."""
    return LiveVerification(
        served=messages.served(message.served),
        live_edits=message.live_edits,
        in_conflict=message.in_conflict,
        drawn=message.drawn,
        seed=message.seed,
        passed=message.passed,
        edits=tuple(_checked(checked) for checked in message.edits),
        health=health(message.health),
        seconds=message.seconds,
        digest=message.digest,
    )


def _checked(message: edits_pb2.CheckedEdit) -> CheckedEdit:
    return CheckedEdit(
        edit=short(message.edit),
        subject=message.subject,
        conflict=message.conflict,
        nearest=short(message.nearest),
        held=message.held,
        answers=tuple(messages.answer(answer) for answer in message.answers),
    )


def crawl(message: crawls_pb2.Crawl) -> Crawl:
    """`Crawl` of the wire."""
    return Crawl(
        subject=message.subject,
        before=messages.served(message.before),
        after=messages.served(message.after),
        known_relations=message.known_relations,
        depth=message.depth,
        paraphrases=message.paraphrases,
        prompts=message.prompts,
        relations=tuple(_relation(relation) for relation in message.relations),
        warnings=tuple(message.warnings),
        seconds=message.seconds,
        digest=message.digest,
    )


def _relation(message: crawls_pb2.CrawledRelation) -> CrawledRelation:
    return CrawledRelation(
        subject=message.subject,
        relation=message.relation,
        depth=message.depth,
        questions=tuple(message.questions),
        before=_belief(message.before),
        after=_belief(message.after),
        change=_CHANGES.get(message.change, CrawlChange.UNSPECIFIED),
        edit=short(message.edit),
        known=message.known,
    )


def _belief(message: crawls_pb2.Belief) -> Belief:
    return Belief(object=message.object, votes=message.votes, answers=tuple(message.answers))
