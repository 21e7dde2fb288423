"""The model's health, and verifications of live edits."""

from errata.v1 import edits_pb2, types_pb2
from errata_server.domain.health import CheckedEdit, Health, LayerHealth, LiveVerification
from errata_server.domain.ids import Digest, EditId, ModelId
from errata_server.rpc.convert import names
from errata_server.rpc.convert.reports import VERDICTS, answer_message


def health_message(health: Health, served: types_pb2.Served) -> types_pb2.ModelHealth:
    """How far the live edits have moved the model."""
    return types_pb2.ModelHealth(
        served=served,
        verdict=VERDICTS[health.verdict],
        live_edits=health.live_edits,
        perplexity_base=health.drift.base,
        perplexity=health.drift.served,
        warn_drift=health.warn_drift,
        maximum_drift=health.maximum_drift,
        layers=[_layer_message(layer) for layer in health.layers],
        warnings=health.warnings,
    )


def _layer_message(layer: LayerHealth) -> types_pb2.LayerHealth:
    strain = layer.strain
    return types_pb2.LayerHealth(
        layer=strain.layer,
        module=strain.module,
        live_edits=strain.live_edits,
        keys=strain.keys,
        width=strain.width,
        firings=strain.firings,
        ordinary_keys=strain.ordinary_keys,
        disturbance=strain.disturbance,
        budget=layer.budget,
        limited_by=layer.limited_by,
    )


def verification_message(
    model: ModelId, digest: Digest, found: LiveVerification, served: types_pb2.Served
) -> edits_pb2.LiveVerification:
    """What asking live edits again came to."""
    return edits_pb2.LiveVerification(
        served=served,
        live_edits=found.live_edits,
        in_conflict=found.in_conflict,
        drawn=found.drawn,
        seed=found.seed,
        passed=found.passed,
        edits=[_checked_message(model, checked) for checked in found.edits],
        health=health_message(found.health, served),
        seconds=found.seconds,
        digest=digest,
    )


def _checked_message(model: ModelId, checked: CheckedEdit) -> edits_pb2.CheckedEdit:
    nearest = EditId(checked.nearest)
    return edits_pb2.CheckedEdit(
        edit=names.edit_name(model, checked.edit),
        subject=checked.subject,
        conflict=checked.conflict,
        nearest=names.edit_name(model, nearest) if nearest else "",
        held=checked.held,
        answers=[answer_message(model, answer) for answer in checked.answers],
    )
