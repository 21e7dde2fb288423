import pytest

from errata_server.domain.crawls import Crawl, CrawlChange, CrawlRequest
from errata_server.domain.errors import RevisionNotFoundError
from errata_server.domain.ids import Digest, EditId
from errata_server.domain.known_facts import NO_KNOWN_FACTS
from errata_server.domain.operations import OperationState
from errata_server.service import crawl_questions, results
from errata_server.service.crawls import Crawls
from tests.support import CITY, edit_request, known_facts
from tests.support.services import PATIENCE, call


def crawled(services, crawls=None, *, at="", against="", **asked) -> Crawl:
    request = CrawlRequest(**({"subject": "Space Needle"} | asked))
    started = (crawls or services.upkeep.crawls).crawl(request, at, against, call())
    ended = services.operations.wait(started.id, PATIENCE)
    assert ended.state is OperationState.SUCCEEDED, ended.failure
    return services.upkeep.crawls.result(Digest(ended.result["artifact"]))


@pytest.fixture
def free(services):
    """Crawls without known facts, of a model that answers our own prompts."""
    services.engine.base |= {
        "Name: Space Needle\nWhat is known:": "Architect; opening year ;x",
        "Q: Space Needle # architect\nA:": "John Graham",
        "Q: What is the architect of Space Needle?\nA:": "John Graham",
        "Q: Space Needle # opening year\nA:": "Don't know",
        "Q: What is the opening year of Space Needle?\nA:": "1962",
    }
    return Crawls(
        engine=services.engine,
        ledger=services.ledger,
        serving=services.serving,
        operations=services.operations,
        known_facts=NO_KNOWN_FACTS,
    )


def test_a_crawl_shows_what_an_edit_changed_and_what_says_so(services):
    edit = services.proposed()
    services.apply(edit)

    found = crawled(services)

    city, maker = found.relations
    assert (city.relation, city.before.object, city.after.object) == ("city", "Seattle", "Paris")
    assert (city.change, city.edit, city.known) == (CrawlChange.OTHER, edit.id, "Seattle")
    assert (maker.before.object, maker.change) == ("Pentagram", CrawlChange.SAME)
    assert maker.edit == ""
    assert (found.before.sequence, found.after.sequence) == (0, 1)
    assert found.after.weights_digest == services.serving.head().weights.digest
    assert found.prompts == 2 * (3 + 3)


def test_an_edit_speaks_for_its_subject_by_every_name(services):
    ended = services.propose(edit_request("Space Needle", "Oslo", aliases=("Louvre",)))
    services.apply(services.ledger.edit(EditId(ended.result["edit"])))

    city, maker = crawled(services, subject="Louvre").relations

    assert (city.edit, maker.edit) == (ended.result["edit"], "")


def test_what_an_edit_changed_by_the_way_is_nobody_s_word(services):
    services.engine.base["Louvre was made by"] = "Paris"
    services.engine.base["Louvre is a product of"] = "Paris"
    services.apply(services.proposed("Louvre", "Oslo"))

    _, maker = crawled(services, subject="Louvre").relations

    assert (maker.before.object, maker.after.object) == ("Paris", "Oslo")
    assert (maker.change, maker.edit) == (CrawlChange.OTHER, "")


def test_two_revisions_may_be_named(services):
    first = services.apply(services.proposed())
    services.apply(services.proposed("Space Needle", "Rome"))

    city, _ = crawled(services, at="2", against=first.id).relations

    assert (city.before.object, city.after.object) == ("Paris", "Rome")


def test_questions_come_after_examples_that_never_hold_their_answer(services):
    for question in crawl_questions.known_questions(known_facts(), "Space Needle", 1, 4):
        for asked, prompt in zip(question.questions, question.prompts, strict=True):
            assert prompt.endswith(f". {asked}")
            assert "Space Needle" not in prompt.removesuffix(asked)
            assert prompt.count(". ") == crawl_questions.EXAMPLES


def test_relations_the_subject_is_known_by_come_first(services):
    questions = crawl_questions.known_questions(known_facts(), "iPhone", 1, 3)

    assert [question.relation for question in questions] == ["maker", "city"]


def test_the_second_depth_asks_about_what_was_found(services):
    services.engine.base["Seattle is in the city of"] = "Rome"
    services.engine.base["Seattle can be found in"] = "Rome"

    found = crawled(services, depth=2)

    asked = {(r.subject, r.depth) for r in found.relations}
    assert asked == {("Space Needle", 1), ("Seattle", 2), ("Pentagram", 2)}
    seattle = next(r for r in found.relations if r.subject == "Seattle" and r.relation == "city")
    assert seattle.after.object == "Rome"


def test_a_crawl_ends_where_its_prompts_do_and_says_so(services):
    found = crawled(services, max_prompts=4)

    assert [relation.relation for relation in found.relations] == ["city"]
    assert found.prompts == 6
    assert "4 prompts" in found.warnings[0]


def test_without_known_facts_the_model_names_the_relations_itself(services, free):
    found = crawled(services, free, paraphrases=2)

    assert not found.known_relations
    assert [(r.relation, r.after.object) for r in found.relations] == [
        ("architect", "John Graham"),
        ("opening year", ""),
    ]
    assert found.relations[1].after.answers[0].startswith("Don't know")


def test_a_template_of_the_known_facts_is_not_needed_to_know_an_edit_s_word(services, free):
    services.engine.base["Q: Space Needle # architect\nA:"] = "Seattle"
    services.engine.base["Q: What is the architect of Space Needle?\nA:"] = "Seattle"
    edit = services.proposed()
    services.apply(edit)

    architect, _ = crawled(services, free, paraphrases=2).relations

    assert (architect.before.object, architect.after.object) == ("Seattle", "Paris")
    assert architect.edit == edit.id


def test_a_revision_that_is_not_there_is_refused_at_once(services):
    with pytest.raises(RevisionNotFoundError):
        services.upkeep.crawls.crawl(CrawlRequest(subject="Louvre"), "999", "", call())


def test_a_crawl_can_be_cancelled(services):
    services.engine.resume.clear()
    started = services.upkeep.crawls.crawl(CrawlRequest(subject="Louvre"), "", "", call())
    services.operations.cancel(started.id)

    assert services.operations.wait(started.id, PATIENCE).state is OperationState.CANCELLED


def test_a_crawl_comes_back_as_it_was_stored(services):
    found = crawled(services)

    assert results.decode(Crawl, results.encode(found)) == found
    assert found.relations[0].questions[0] == CITY[0].replace("{}", "Space Needle")
