"""What an edit is to leave alone about its own subject: prompts in its other relations.

A value fires wherever its subject is named, so while it is sought the model's answers to these
prompts are held to what they were. Invariants: the same request and known facts give the same
prompts; no prompt is of a relation that is edited.
"""

from typing import Final

from errata_server.domain.facts import MAX_TEXT, PLACEHOLDER, EditRequest
from errata_server.domain.known_facts import KnownFacts

MOST_HELD: Final = 6
"""Relations held beside what the subject is."""

PHRASINGS: Final = 2
"""Prompts for each of the subject's own; with one, answers to other phrasings slipped."""


def held_prompts(known_facts: KnownFacts, request: EditRequest) -> tuple[str, ...]:
    """Prompts about ``request``'s subject that it does not edit, from its own known facts.

    Another fact with the same object as an edited one is left out: it is likely to say the
    same in other words, and would hold the edit back. Where no other fact is known, nothing is
    held beside what the subject is: what the model makes up about it is nothing to keep.
    """
    edited = {known_facts.relation_of(fact.template) for fact in request.facts}
    about = known_facts.of_subject(request.subject)
    replaced = {f.object for f in about if f.relation in edited}
    others = (f.relation for f in about if f.relation not in edited and f.object not in replaced)
    prompts = [
        template.replace(PLACEHOLDER, request.subject)
        for relation in list(dict.fromkeys(others))[:MOST_HELD]
        for template in known_facts.templates[relation][:PHRASINGS]
    ]
    asked = set(request.prompts)
    return tuple(prompt for prompt in prompts if len(prompt) <= MAX_TEXT and prompt not in asked)
