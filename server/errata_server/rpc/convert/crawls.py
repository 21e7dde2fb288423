"""Crawls: what was asked around a subject, and what the model said."""

from typing import Final

from errata.v1 import crawls_pb2, types_pb2
from errata_server.domain.crawls import (
    DEPTH,
    PARAPHRASES,
    PROMPTS,
    Belief,
    Crawl,
    CrawlChange,
    CrawledRelation,
    CrawlRequest,
)
from errata_server.domain.ids import Digest, EditId, ModelId
from errata_server.rpc.convert import names

CHANGES: Final = {
    CrawlChange.SAME: crawls_pb2.CRAWL_CHANGE_SAME,
    CrawlChange.OTHER: crawls_pb2.CRAWL_CHANGE_OTHER,
    CrawlChange.GAINED: crawls_pb2.CRAWL_CHANGE_GAINED,
    CrawlChange.LOST: crawls_pb2.CRAWL_CHANGE_LOST,
    CrawlChange.UNKNOWN: crawls_pb2.CRAWL_CHANGE_UNKNOWN,
}


def crawl_request(message: crawls_pb2.CrawlSubjectRequest) -> CrawlRequest:
    """What is to be asked about.

    Raises:
        InvalidInputError: the subject is malformed, or a number out of range.
    """
    return CrawlRequest(
        subject=message.subject,
        depth=message.depth if message.HasField("depth") else DEPTH,
        paraphrases=message.paraphrases if message.HasField("paraphrases") else PARAPHRASES,
        max_prompts=message.max_prompts if message.HasField("max_prompts") else PROMPTS,
    )


def crawl_message(
    model: ModelId, digest: Digest, crawl: Crawl, served: tuple[types_pb2.Served, types_pb2.Served]
) -> crawls_pb2.Crawl:
    """What a crawl found."""
    before, after = served
    return crawls_pb2.Crawl(
        subject=crawl.subject,
        before=before,
        after=after,
        known_relations=crawl.known_relations,
        depth=crawl.depth,
        paraphrases=crawl.paraphrases,
        prompts=crawl.prompts,
        relations=[_relation_message(model, relation) for relation in crawl.relations],
        warnings=crawl.warnings,
        seconds=crawl.seconds,
        digest=digest,
    )


def _relation_message(model: ModelId, relation: CrawledRelation) -> crawls_pb2.CrawledRelation:
    return crawls_pb2.CrawledRelation(
        subject=relation.subject,
        relation=relation.relation,
        depth=relation.depth,
        questions=relation.questions,
        before=_belief_message(relation.before),
        after=_belief_message(relation.after),
        change=CHANGES[relation.change],
        edit=names.edit_name(model, EditId(relation.edit)) if relation.edit else "",
        known=relation.known,
    )


def _belief_message(belief: Belief) -> crawls_pb2.Belief:
    return crawls_pb2.Belief(object=belief.object, votes=belief.votes, answers=belief.answers)
