from dataclasses import replace

from errata_server.domain.ids import Digest, EditId, ReportId, RevisionId
from errata_server.domain.revisions import EditReference, Revision, RevisionKind
from tests.support.services import genesis, scripted_engine

GENESIS = replace(genesis(scripted_engine()), reason="base model")
APPLIED = replace(
    GENESIS,
    kind=RevisionKind.APPLY,
    sequence=1,
    parent=GENESIS.id,
    edits=(
        EditReference(
            edit=EditId("e-1"),
            edit_digest=Digest("d" * 64),
            patch=Digest("p" * 64),
            report=ReportId("r" * 64),
        ),
    ),
    superseded=(EditId("e-0"),),
)


def test_a_revision_survives_its_body():
    assert Revision.from_body(APPLIED.body) == APPLIED
    assert Revision.from_body(APPLIED.body).id == APPLIED.id


def test_an_id_vouches_for_the_history_below_it():
    assert replace(APPLIED, parent=RevisionId("0" * 64)).id != APPLIED.id


def test_every_field_is_part_of_the_id():
    changed = [
        replace(APPLIED, actor="eve"),
        replace(APPLIED, reason="another"),
        replace(APPLIED, override="because"),
        replace(APPLIED, edits=()),
        replace(APPLIED, superseded=()),
        replace(APPLIED, sequence=2),
    ]

    assert len({revision.id for revision in (APPLIED, *changed)}) == len(changed) + 1


PROMOTED = replace(
    APPLIED,
    kind=RevisionKind.PROMOTE,
    source=RevisionId("5" * 64),
    removed=(replace(APPLIED.edits[0], edit=EditId("e-2")),),
    protected=True,
)


def test_a_promotion_survives_its_body():
    assert Revision.from_body(PROMOTED.body) == PROMOTED


def test_what_came_later_is_part_of_the_id():
    changed = [
        replace(PROMOTED, source=RevisionId("6" * 64)),
        replace(PROMOTED, removed=()),
        replace(PROMOTED, protected=False),
    ]

    assert len({revision.id for revision in (PROMOTED, *changed)}) == len(changed) + 1


def test_revisions_of_the_first_release_keep_their_ids():
    assert GENESIS.id == "b3af0457fb083731a67e90a00c09e5d2e298de8688ff28567d1445b0841728fc"
    assert APPLIED.id == "cadef5323c35ca907b2d5f2b15f23ffd4ea8945165872b44e9f907bd3258fe72"
    for name in (b"source", b"removed", b"protected"):
        assert name not in APPLIED.body
