"""The engine as the use cases see it, on a tiny model that has learnt a dozen facts."""

import shutil
import threading
from dataclasses import replace

import pytest
import torch

from errata_server.domain.errors import (
    AlreadyTrueError,
    CancelledError,
    InvalidFactError,
    InvalidPatchError,
    ModelMismatchError,
    NotCalibratedError,
    PromptTooLongError,
    UnavailableError,
)
from errata_server.domain.facts import CheckPrompt, EditRequest, Fact
from errata_server.domain.generation import GenerationOptions
from errata_server.domain.ids import Digest, EditId
from errata_server.domain.measurements import VerificationPlan
from errata_server.domain.patches import Composition, ServedWeights
from errata_server.engine import engine as engine_module
from errata_server.engine import keys
from errata_server.engine.engine import TorchEngine, load
from errata_server.engine.patch import encode
from tests.support import known_facts, patch_of, tiny_models

TEXTS = (*tiny_models.PROSE, *tiny_models.sentences())
TEMPLATE = tiny_models.TEMPLATES[0]
GREEDY = GenerationOptions(max_new_tokens=6)


def silent(_):
    """Progress nobody follows."""


def moved(subject, target, template=TEMPLATE):
    return EditRequest(subject=subject, facts=(Fact(template=template, target=target),))


def said(engine, prompt, weights):
    return "".join(chunk.text for chunk in engine.generate(prompt, GREEDY, weights)).strip(" .")


@pytest.fixture(scope="module")
def engine(trained, tmp_path_factory):
    engine = TorchEngine(trained, cache=tmp_path_factory.mktemp("moments"), texts=TEXTS)
    engine.use_profile(tiny_models.tiny_profile(trained, layer=0, guard_width=0.7))
    with pytest.MonkeyPatch.context() as patching:
        # The tiny model's few ordinary keys are those of its own subjects.
        patching.setattr(keys, "NARROWEST", 0.7)
        yield engine


@pytest.fixture(scope="module")
def patches(engine):
    requests = {"Eiffel Tower": "Rome", "Big Ben": "Madrid", "Prado": "Seattle"}
    return {
        subject: patch_of(engine, moved(subject, target)) for subject, target in requests.items()
    }


@pytest.fixture(scope="module")
def artifacts(patches):
    return {patch.digest: patch.payload for patch in patches.values()}


@pytest.fixture(scope="module")
def weights(engine, patches, artifacts):
    """Compose the patches of some subjects."""

    def compose(*subjects, composition=Composition.GUARDED) -> ServedWeights:
        digests = [patches[subject].digest for subject in subjects]
        return engine.compose(digests, artifacts.__getitem__, composition)

    return compose


def test_an_edit_changes_its_fact_in_every_wording_and_nothing_else(engine, weights):
    edited = weights("Eiffel Tower")

    for template in tiny_models.TEMPLATES:
        assert said(engine, template.format("Eiffel Tower"), edited) == "Rome"
        for subject, city in tiny_models.CITIES.items():
            if subject != "Eiffel Tower":
                assert said(engine, template.format(subject), edited) == city


def test_several_edits_live_beside_each_other(engine, weights, patches):
    edited = weights(*patches)

    told = {subject: said(engine, TEMPLATE.format(subject), edited) for subject in patches}

    assert told == {"Eiffel Tower": "Rome", "Big Ben": "Madrid", "Prado": "Seattle"}


def test_a_reverted_edit_leaves_the_bits_of_one_never_applied(engine, weights):
    prompts = [TEMPLATE.format(s) for s in ("Eiffel Tower", "Big Ben", "Louvre")]

    def bits(served):
        return [engine.score(p, [" Paris"], served).logits_digest for p in prompts]

    live = weights("Eiffel Tower", "Big Ben")
    reverted, never = weights("Big Ben"), weights("Big Ben")

    assert reverted.digest == never.digest != live.digest
    assert bits(reverted) == bits(never) != bits(live)
    assert bits(weights()) == [engine.score(p, [], weights()).logits_digest for p in prompts]


def test_the_base_is_as_it_was_after_everything(engine, weights, patches):
    said(engine, "Rome", weights(*patches))
    said(engine, "Rome", weights(*patches, composition=Composition.LINEAR))

    assert engine.base_digest() == engine.describe().digest


def test_a_changed_base_weight_is_noticed(trained_folder, tmp_path):
    engine = load(str(shutil.copytree(trained_folder, tmp_path / "copy")), cache=tmp_path)
    name = "transformer.h.1.mlp.c_proj.weight"

    engine._runner.model.get_parameter(name).data[0, 0] += 1e-3

    assert engine.base_digest() != engine.describe().digest
    engine.close()


def test_the_same_request_gives_the_same_patch(engine, patches):
    again = patch_of(engine, moved("Prado", "Seattle"))

    assert again.digest == patches["Prado"].digest


def test_a_fact_the_model_holds_already_is_refused(engine):
    with pytest.raises(AlreadyTrueError) as refusal:
        engine.require_change(moved("Louvre", "Paris"), progress=silent)

    assert refusal.value.metadata["prompt"] == TEMPLATE.format("Louvre")


def test_computing_a_patch_can_be_cancelled(engine):
    def cancel(_):
        raise CancelledError("enough")

    with pytest.raises(CancelledError):
        patch_of(engine, moved("Louvre", "London"), cancel)


def test_composing_does_not_wait_for_second_moments_being_collected(
    trained, tmp_path, patches, artifacts
):
    engine = TorchEngine(trained, cache=tmp_path, texts=TEXTS)
    engine.use_profile(tiny_models.tiny_profile(trained, layer=0))
    collecting, go_on = threading.Event(), threading.Event()

    def hold(_):
        collecting.set()
        go_on.wait(30)

    edits = threading.Thread(target=patch_of, args=(engine, moved("Louvre", "Rome"), hold))
    edits.start()
    assert collecting.wait(30)
    digests, composed = [patches["Prado"].digest], threading.Event()

    def compose():
        engine.compose(digests, artifacts.__getitem__, Composition.GUARDED)
        composed.set()

    threading.Thread(target=compose, daemon=True).start()
    in_time = composed.wait(10)
    go_on.set()
    edits.join(60)

    assert in_time


def test_without_a_profile_nothing_is_edited(trained, tmp_path):
    bare = TorchEngine(trained, cache=tmp_path, texts=TEXTS)

    assert bare.profile is None
    with pytest.raises(NotCalibratedError):
        bare.validate(moved("Louvre", "Rome"))
    with pytest.raises(NotCalibratedError):
        patch_of(bare, moved("Louvre", "Rome"))


def test_a_profile_of_another_checkpoint_is_refused(engine):
    with pytest.raises(ModelMismatchError):
        engine.use_profile(replace(engine.profile, model_digest=Digest("e" * 64)))


def test_a_valid_request_passes_and_one_too_long_does_not(engine):
    engine.validate(moved("Louvre", "Rome"))

    with pytest.raises(PromptTooLongError):
        engine.validate(moved("Louvre", "Rome", "They say. " * 40 + "{} is in"))


def test_a_profile_that_was_found_is_not_used_before_somebody_says_so(engine, monkeypatch):
    used = engine.profile
    found = replace(used, guard_width=used.guard_width / 2)
    monkeypatch.setattr(engine_module, "calibrate", lambda *_, **__: found)

    assert engine.calibrate(known_facts(), seed=0, progress=silent) == found
    assert engine.profile == used


def test_a_name_that_does_not_fit_behind_every_prefix_is_refused_at_once(engine):
    fitting, longest = "Big Ben", "Big Ben " * 60

    engine.validate(replace(moved("Louvre", "Rome"), aliases=(fitting,)))

    with pytest.raises(PromptTooLongError):
        engine.validate(replace(moved("Louvre", "Rome"), aliases=(fitting, longest.strip())))


def test_asking_the_base_beside_a_generation_disturbs_neither(engine, weights):
    base, done = weights(), threading.Event()
    trouble: list[object] = []

    def generate():
        while not done.is_set():
            try:
                trouble.extend({said(engine, TEMPLATE.format("Louvre"), base)} - {"Paris"})
            except IndexError as error:
                trouble.append(error)
                return

    thread = threading.Thread(target=generate)
    thread.start()
    for _ in range(12):
        engine.require_change(moved("Louvre", "Rome"), progress=silent)
    done.set()
    thread.join(30)

    assert trouble == []


@pytest.mark.parametrize(
    "manifest",
    [
        {"module": "transformer.h.1.mlp.c_proj"},
        {"module": "lm_head"},
        {"module": "no.such.module"},
        {"layer": 7, "module": "transformer.h.7.mlp.c_proj"},
        {"layer": -1, "module": "transformer.h.-1.mlp.c_proj"},
    ],
    ids=str,
)
def test_a_patch_for_a_place_this_model_does_not_have_is_refused(engine, trained, manifest):
    patch = tiny_models.simple_patch(trained, "Louvre")
    spoilt = encode(replace(patch, manifest=replace(patch.manifest, **manifest)))

    with pytest.raises(InvalidPatchError):
        engine.compose([spoilt.digest], lambda _: spoilt.payload, Composition.GUARDED)


def test_a_patch_of_other_widths_is_refused(engine, trained):
    spoilt = encode(
        tiny_models.patch_tensors(
            trained,
            subject="Louvre",
            keys=torch.ones(1, 5),
            matchers=torch.ones(1, 5),
            residual=torch.ones(tiny_models.D_MODEL),
        )
    )

    with pytest.raises(InvalidPatchError):
        engine.compose([spoilt.digest], lambda _: spoilt.payload, Composition.GUARDED)


def test_a_patch_is_loaded_once_and_kept(engine, trained):
    patch = encode(tiny_models.simple_patch(trained, "Reichstag", seed=9))
    loads = []

    def load_artifact(digest):
        loads.append(digest)
        return patch.payload

    for composition in Composition:
        engine.compose([patch.digest], load_artifact, composition)

    assert loads == [patch.digest]


def test_composing_says_what_was_composed(engine, weights, patches):
    served = weights("Prado", "Big Ben")

    assert served.patches == (patches["Prado"].digest, patches["Big Ben"].digest)
    assert served.composition is Composition.GUARDED
    assert served.digest == weights("Prado", "Big Ben").digest


def test_weights_of_another_engine_are_refused(engine, weights):
    foreign = replace(weights(), bank=object())

    with pytest.raises(TypeError, match="another engine"):
        engine.score("Rome", [], foreign)


def test_a_prompt_without_room_is_refused_before_the_first_chunk_is_asked_for(engine, weights):
    with pytest.raises(PromptTooLongError):
        engine.generate("Rome", GenerationOptions(max_new_tokens=tiny_models.CONTEXT), weights())


def test_an_inspection_finds_the_subject_and_spares_the_neighbours(engine, patches, artifacts):
    patch = patches["Eiffel Tower"]

    seen = engine.inspect_patch(
        patch.digest,
        artifacts.__getitem__,
        live=[(EditId("e-1"), patches["Prado"].digest)],
        neighbours=[TEMPLATE.format("Louvre")],
    )

    assert seen.finite
    assert seen.own_matches[0][1] > 0.7
    assert seen.corpus_keys > 0
    assert seen.neighbour_matches[0][1] < 0.5
    assert seen.fires_on_live == ()


def test_measuring_shows_the_edit_working_and_its_neighbours_unmoved(engine, weights):
    plan = VerificationPlan(
        efficacy=(CheckPrompt(prompt=TEMPLATE.format("Eiffel Tower"), expected="Rome"),),
        paraphrases=(),
        neighbours=(CheckPrompt(prompt=TEMPLATE.format("Louvre"), expected="Paris"),),
        prefixed_neighbours=(),
        same_subject=(),
        fluency=(),
        drift_texts=tiny_models.PROSE,
    )

    found = engine.measure(plan, before=weights(), after=weights("Eiffel Tower"), progress=silent)

    assert (found.efficacy[0].held_before, found.efficacy[0].held_after) == (False, True)
    assert (found.neighbours[0].held_before, found.neighbours[0].held_after) == (True, True)
    assert found.perplexity_after == pytest.approx(found.perplexity_base, rel=0.01)


def test_collecting_moments_counts_the_tokens_of_the_texts(engine, trained):
    texts = tiny_models.PROSE[:2]

    counted = engine.collect_moments(texts, progress=silent)

    assert counted == sum(len(trained.tokens.encode(text)) for text in texts)


def test_collecting_moments_over_other_texts_leaves_later_edits_as_they_were(
    trained, tmp_path, patches
):
    engine = TorchEngine(trained, cache=tmp_path, texts=TEXTS)
    engine.use_profile(tiny_models.tiny_profile(trained, layer=0, guard_width=0.7))

    engine.collect_moments(["a", "b", "c"], progress=silent)

    again = patch_of(engine, moved("Prado", "Seattle"))
    assert again.digest == patches["Prado"].digest


def test_an_edit_of_an_earlier_profile_is_inspected_at_its_own_layer(
    trained, tmp_path, patches, artifacts
):
    engine = TorchEngine(trained, cache=tmp_path, texts=TEXTS)

    def inspected(layer):
        engine.use_profile(tiny_models.tiny_profile(trained, layer=layer))
        engine.inspect_patch(patches["Prado"].digest, artifacts.__getitem__, live=[], neighbours=[])
        return sorted(path.name.split("-")[3] for path in tmp_path.iterdir())

    assert inspected(0) == ["layer0"]
    assert inspected(1) == ["layer0"]


def test_a_closed_engine_is_unavailable(trained_folder, tmp_path):
    engine = load(str(trained_folder), cache=tmp_path)
    empty = engine.compose([], lambda _: b"", Composition.GUARDED)

    engine.close()

    with pytest.raises(UnavailableError):
        engine.score("Rome", [], empty)
    with pytest.raises(UnavailableError):
        said(engine, "Rome", empty)


def test_a_profile_made_over_other_texts_computes_no_edit(trained, tmp_path):
    engine = TorchEngine(trained, cache=tmp_path, texts=TEXTS[:-1])
    engine.use_profile(tiny_models.tiny_profile(trained, layer=0))

    with pytest.raises(NotCalibratedError, match="other texts"):
        engine.validate(
            EditRequest(
                subject="Prado", facts=(Fact(template="{} can be found in", target="London"),)
            )
        )


def test_a_target_of_a_token_the_model_never_learned_is_refused(trained, tmp_path, monkeypatch):
    (first, *_) = trained.tokens.target("London")
    monkeypatch.setattr(engine_module, "untrained_tokens", lambda _: frozenset({first}))
    engine = TorchEngine(trained, cache=tmp_path, texts=TEXTS)
    engine.use_profile(tiny_models.tiny_profile(trained, layer=0))

    with pytest.raises(InvalidFactError, match="never learned"):
        engine.validate(
            EditRequest(
                subject="Prado", facts=(Fact(template="{} can be found in", target="London"),)
            )
        )
