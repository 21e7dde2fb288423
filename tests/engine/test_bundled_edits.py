"""Real edits on the bundled model with the profile it is shipped with."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

import errata_server
from errata_server import files
from errata_server.domain.answers import begins_with
from errata_server.domain.facts import EditRequest, Fact
from errata_server.domain.patches import Composition
from errata_server.engine.answers import continue_greedily
from errata_server.engine.editor import recognise
from errata_server.engine.engine import load
from errata_server.engine.keys import keys_at_subject
from errata_server.engine.runner import BASE
from errata_server.engine.subjects import collect
from tests.support import patch_of

DEMO = Path(errata_server.__file__).parent / "demo"
EDITS = 4
TOKENS = 12

pytestmark = pytest.mark.skipif(
    not (DEMO / "model").is_dir() or not (DEMO / "profile.json").is_file(),
    reason="the bundled model and its profile are not built yet",
)


def silent(_):
    """Progress nobody follows."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    texts = files.read_texts(None).corpus
    engine = load(str(DEMO / "model"), cache=tmp_path_factory.mktemp("moments"), texts=texts)
    profile = files.read_bundled_profile()
    assert profile is not None
    engine.use_profile(profile)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def known():
    return files.read_known_facts(None)


@pytest.fixture(scope="module")
def chosen(known):
    """Seeded real facts, of different subjects, each with another object of its relation."""
    chance = random.Random(20)
    real = [fact for fact in known.facts if fact.source == "real"]
    facts = {fact.subject: fact for fact in chance.sample(real, 3 * EDITS)}
    rows = []
    for fact in list(facts.values())[:EDITS]:
        objects = sorted({o.object for o in known.of_relation(fact.relation)} - {fact.object})
        rows.append((fact, chance.choice(objects)))
    return rows


@pytest.fixture(scope="module")
def patches(engine, known, chosen):
    made = []
    for fact, target in chosen:
        template = known.templates[fact.relation][0]
        request = EditRequest(subject=fact.subject, facts=(Fact(template=template, target=target),))
        engine.validate(request)
        made.append(patch_of(engine, request))
    return made


@pytest.fixture(scope="module")
def compose(engine, patches):
    payloads = {patch.digest: patch.payload for patch in patches}

    def composed(some):
        return engine.compose([p.digest for p in some], payloads.__getitem__, Composition.GUARDED)

    return composed


def answers(engine, prompts, weights):
    return continue_greedily(engine._runner, prompts, weights.bank, new_tokens=TOKENS)


def test_the_profile_was_made_for_the_bundled_model(engine):
    description, profile = engine.describe(), engine.profile

    assert profile.model_digest == description.digest
    assert profile.module == engine._runner.checkpoint.projection_path(profile.layer)
    assert (profile.d_in, profile.d_out) == (description.d_in, description.d_model)
    assert "" in profile.prefixes
    assert profile.evidence


def test_every_value_is_found(patches):
    assert [p.manifest.optimisation.converged for p in patches] == [True] * EDITS


def test_all_edits_live_together_say_their_targets(engine, known, chosen, patches, compose):
    weights = compose(patches)
    prompts = [known.prompt(fact) for fact, _ in chosen]

    said = answers(engine, prompts, weights)

    held = [begins_with(a, target) for a, (_, target) in zip(said, chosen, strict=True)]
    assert held == [True] * EDITS, said


def test_most_paraphrases_follow(engine, known, chosen, patches, compose):
    weights = compose(patches)
    prompts, targets = [], []
    for fact, target in chosen:
        for template in range(1, len(known.templates[fact.relation])):
            prompts.append(known.prompt(fact, template))
            targets.append(target)

    said = answers(engine, prompts, weights)

    held = sum(begins_with(a, t) for a, t in zip(said, targets, strict=True))
    assert held >= 0.8 * len(prompts)


def test_other_subjects_answer_as_before(engine, known, chosen, patches, compose):
    edited = {fact.subject for fact, _ in chosen}
    relations = {fact.relation for fact, _ in chosen}
    near = [f for f in known.facts if f.relation in relations and f.subject not in edited]
    prompts = [known.prompt(f) for f in random.Random(3).sample(near, 60)]

    before = continue_greedily(engine._runner, prompts, BASE, new_tokens=TOKENS)
    after = answers(engine, prompts, compose(patches))

    assert sum(b != a for b, a in zip(before, after, strict=True)) <= 1


def test_taking_an_edit_out_of_the_middle_leaves_the_bits_of_one_never_applied(
    engine, known, chosen, patches, compose
):
    prompts = [known.prompt(fact) for fact, _ in chosen]
    kept = [*patches[:2], *patches[3:]]
    assert len(kept) == EDITS - 1

    live, reverted = compose(patches), compose(kept)

    def bits(weights):
        return [engine.score(prompt, [], weights).logits_digest for prompt in prompts]

    with_it, without = bits(live), bits(reverted)
    never = bits(compose([patches[i] for i in range(EDITS) if i != 2]))
    assert without == never
    assert without[2] == engine.score(prompts[2], [], compose([])).logits_digest != with_it[2]
    assert [a == b for a, b in zip(with_it, without, strict=True)].count(False) >= 1
    assert engine.base_digest() == engine.describe().digest


def test_guards_know_their_subjects_in_unseen_contexts_and_leave_prose_alone(
    engine, known, chosen, patches
):
    payloads = {patch.digest: patch.payload for patch in patches}
    for patch, (fact, _) in zip(patches, chosen, strict=True):
        others = [f for f in known.of_relation(fact.relation) if f.subject != fact.subject]
        seen = engine.inspect_patch(
            patch.digest,
            payloads.__getitem__,
            live=[],
            neighbours=[known.prompt(f) for f in others[:10]],
        )

        threshold = 1 - engine.profile.guard_width
        recognised = [match > threshold for _, match in seen.own_matches]
        assert sum(recognised) >= len(recognised) - 2
        assert seen.corpus_firings <= 0.001 * seen.corpus_keys


def test_a_decoy_does_not_keep_an_edit_from_its_own_prompt(engine, tmp_path):
    near = ("Lumolex", "Navilips", "Pelltfs", "Vorrrari")
    asked = [
        EditRequest(
            subject=subject, facts=(Fact(template="{} is run from offices in", target=target),)
        )
        for subject, target in (("Rolex", "Munich"), ("Philips", "Yokohama"), ("Ferrari", "Oslo"))
    ]
    batch = engine._batch(asked, [()] * len(asked), silent)
    runner, profile, factor = batch.runner, batch.profile, batch.factor
    known = collect(runner, near, profile, cache=tmp_path, progress=silent)
    crowd = replace(batch.crowd, known=known)

    for request, alone, among in zip(
        asked,
        recognise(runner, asked, profile, factor),
        recognise(runner, asked, profile, factor, crowd=crowd),
        strict=True,
    ):
        prompt = request.facts[0].prompt(request.subject)
        key = keys_at_subject(runner, profile.module, [prompt], request.subject)
        assert among.decoys.subjects
        assert not bool(replace(alone, decoys=among.decoys).guard.nearest(key).fires)
        assert bool(among.guard.nearest(key).fires)
