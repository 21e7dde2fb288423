"""The served checkpoint and its profile."""

from errata.v1 import models_pb2
from errata_server.domain.profiles import Profile
from errata_server.rpc.convert import names, revisions, values
from errata_server.service.views import ModelView, StandingView
from errata_server.version import VERSION


def model_message(view: ModelView) -> models_pb2.Model:
    """The checkpoint as loaded, and what it answers with at present."""
    found = view.description
    return models_pb2.Model(
        name=names.model_name(view.served.revision.model),
        source=found.source,
        digest=found.digest,
        architecture=found.architecture,
        layers=found.layers,
        d_model=found.d_model,
        d_in=found.d_in,
        vocabulary=found.vocabulary,
        context=found.context,
        parameters=found.parameters,
        dtype=found.dtype,
        device=found.device,
        profile=profile_message(view.profile) if view.profile is not None else None,
        served=revisions.served(view.served),
        live_edits=view.live_edits,
        applied_edits=view.applied_edits,
        start_time=values.timestamp(view.started_at),
        server_version=VERSION,
        standing=standing_message(view.standing),
    )


def standing_message(view: StandingView) -> models_pb2.Standing:
    """How the server stands to its ledger."""
    lease = view.lease
    return models_pb2.Standing(
        branch=view.branch,
        replica=view.replica,
        reachable=view.reachable,
        staleness_seconds=view.staleness_seconds,
        lag=view.lag,
        quarantine=view.quarantine,
        lease=None
        if lease is None
        else models_pb2.Lease(
            holder=lease.holder,
            address=lease.address,
            token=lease.token,
            remaining_seconds=lease.remaining_seconds,
        ),
    )


def profile_message(profile: Profile) -> models_pb2.Profile:
    """A profile with the bytes its id is taken over."""
    return models_pb2.Profile(
        id=profile.id,
        layer=profile.layer,
        module=profile.module,
        prefixes=profile.prefixes,
        learning_rate=profile.learning_rate,
        clamp=profile.clamp,
        max_steps=profile.max_steps,
        guard_width=profile.guard_width,
        ridge=profile.ridge,
        moment_tokens=profile.moment_tokens,
        seed=profile.seed,
        body=profile.body,
    )
