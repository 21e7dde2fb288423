from dataclasses import replace

from errata_server.domain.ids import Digest, EditId, ReportId, RevisionId
from errata_server.domain.revisions import EditReference, Revision, RevisionKind
from tests.support.services import genesis, scripted_engine

GENESIS = genesis(scripted_engine())
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
