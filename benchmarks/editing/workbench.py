"""The workbench: a calibrated model with its second moment, and patches kept on disk.

Invariant: a kept patch's name holds the checkpoint, the profile, the request and the edits
made before it, so that a patch computed on other weights is never taken for it.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from errata_server import files
from errata_server.domain import canonical
from errata_server.domain.errors import (
    InvalidInputError,
    InvalidPatchError,
    NoEffectError,
    NotCalibratedError,
)
from errata_server.domain.facts import EditRequest
from errata_server.domain.operations import Progress
from errata_server.domain.profiles import Profile
from errata_server.domain.traces import TokenRole
from errata_server.engine import moments, subjects
from errata_server.engine.answers import perplexity
from errata_server.engine.architecture import projection
from errata_server.engine.calibrate import profile_at
from errata_server.engine.checkpoint import load_checkpoint
from errata_server.engine.crowd import Crowd
from errata_server.engine.decoys import Decoys
from errata_server.engine.editor import Recognition, assemble, in_crowd, recognise
from errata_server.engine.moments import SecondMoment
from errata_server.engine.patch import PatchTensors, decode, encode
from errata_server.engine.runner import BASE, Runner
from errata_server.engine.solve import factor_second_moment
from errata_server.engine.values import optimise_value


@dataclass(slots=True)
class Effort:
    """What computing patches took."""

    seconds: list[float] = field(default_factory=list)
    """Of each patch that was computed; kept ones cost nothing."""

    converged: int = 0
    patches: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """A model as edits need it."""

    runner: Runner
    profile: Profile
    factor: Float[Tensor, "d_in d_in"]
    texts: files.Texts
    crowd: Crowd
    """What guards are to keep off."""

    base_perplexity: float
    cache: Path
    effort: Effort = field(default_factory=Effort)

    @property
    def module(self) -> nn.Module:
        """The edited projection."""
        return projection(self.runner.checkpoint.model, self.profile.module)

    def moment(self, layer: int) -> SecondMoment:
        """The second moment at ``layer``, collected where it is not kept yet."""
        found = moments.collect(
            self.runner, self.texts.corpus, [layer], cache=self.cache, progress=ignored
        )
        return found[layer]

    def at(self, layer: int) -> "Workbench":
        """The same model with its profile moved to ``layer``, and no decoys: they serve guards."""
        profile, moment = (
            profile_at(self.runner.checkpoint, self.profile, layer),
            self.moment(layer),
        )
        factor = factor_second_moment(moment.mean(), profile.ridge)
        nobody = replace(self.crowd.known, subjects=(), keys=self.crowd.known.keys[:0])
        crowd = replace(self.crowd, moment=moment, known=nobody)
        return replace(self, profile=profile, factor=factor, crowd=crowd)

    def patch(
        self,
        request: EditRequest,
        *,
        profile: Profile | None = None,
        role: TokenRole = TokenRole.LAST_SUBJECT,
        history: str = "",
        held: Sequence[str] = (),
    ) -> PatchTensors | None:
        """The patch of ``request`` on the weights as they are; None where it changes nothing.

        Args:
            profile: Another than the workbench's.
            role: The token whose key is taken.
            history: Names the edits the weights hold by now; empty for the base weights.
            held: Prompts about the subject whose answers are to stay.
        """
        profile = profile or self.profile
        asked = canonical.encode({"request": request.to_json(), "held": list(held)})
        name = f"{profile.id}|{role.value}|{history}|".encode() + asked
        path = self.cache / "patches" / f"{hashlib.sha256(name).hexdigest()}.safetensors"
        patch = self._kept(path)
        if patch is None:
            start = time.perf_counter()
            try:
                (recognition,) = recognise(self.runner, [request], profile, self.factor, role=role)
                solution = optimise_value(
                    self.runner, request, profile, role=role, held=held, progress=ignored
                )
                patch = assemble(self.runner, request, profile, recognition, solution)
            except NoEffectError:
                return None
            self.effort.seconds.append(time.perf_counter() - start)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(patch).payload)
        self.effort.patches += 1
        self.effort.converged += patch.manifest.optimisation.converged
        if role is not TokenRole.LAST_SUBJECT:  # whoever asks for its key has no guard on it
            return patch
        return self._in_crowd(request, patch, profile)

    def _in_crowd(
        self, request: EditRequest, patch: PatchTensors, profile: Profile
    ) -> PatchTensors:
        """A kept patch has the profile's width and no decoys, so that it serves any crowd."""
        manifest = patch.manifest
        found = Recognition(
            keys=patch.keys,
            matchers=patch.matchers,
            leverages=torch.tensor(manifest.leverages, dtype=torch.float64),
            agreement=manifest.optimisation.key_agreement,
            width=manifest.guard_width,
            decoys=Decoys(subjects=manifest.decoys, rows=patch.decoys),
        )
        (found,) = in_crowd(self.runner, [request], profile, self.factor, [found], crowd=self.crowd)
        manifest = replace(
            manifest,
            keys=len(found.keys),
            leverages=tuple(found.leverages.tolist()),
            guard_width=found.width,
            decoys=found.decoys.subjects,
        )
        return replace(
            patch,
            manifest=manifest,
            keys=found.keys.float(),
            matchers=found.matchers.float(),
            decoys=found.decoys.rows,
        )

    def _kept(self, path: Path) -> PatchTensors | None:
        if not path.exists():
            return None
        try:
            return decode(path.read_bytes(), model=self.runner.checkpoint.digest)
        except InvalidPatchError:  # of another version of errata
            return None


def open_workbench(
    cache: Path,
    *,
    model: str = "",
    profile: Path | None = None,
    texts: Path | None = None,
    known: Sequence[str] = (),
) -> Workbench:
    """The model at ``model``, the bundled one where empty, with its second moment.

    Args:
        cache: Keeps second moments and patches.
        profile: A profile in JSON, needed for every model but the bundled one.
        texts: The texts the profile was calibrated on; the bundled ones where None.
        known: Subjects whose answers are to stay where an edit's subject is near them.

    Raises:
        NotCalibratedError: there is no profile, or it belongs to another checkpoint.
        InvalidInputError: a file cannot be used.
        UnsupportedModelError: the checkpoint cannot be loaded or edited.
    """
    found = files.read_bundled_profile() if profile is None else read_profile(profile)
    runner = Runner(load_checkpoint(model or str(files.BUNDLED_MODEL)))
    if found is None or found.model_digest != runner.checkpoint.digest:
        runner.close()
        raise NotCalibratedError(
            "there is no profile of this checkpoint; calibrate it with `errata-server "
            "calibrate` and give the profile with --profile",
            model=model,
        )
    prose = files.read_texts(texts)
    layer = found.layer
    moment = moments.collect(runner, prose.corpus, [layer], cache=cache, progress=ignored)[layer]
    return Workbench(
        runner=runner,
        profile=found,
        factor=factor_second_moment(moment.mean(), found.ridge),
        texts=prose,
        crowd=Crowd(
            moment=moment,
            texts=prose.corpus,
            known=subjects.collect(runner, known, found, cache=cache, progress=ignored),
        ),
        base_perplexity=perplexity(runner, prose.drift, BASE),
        cache=cache,
    )


def read_profile(path: Path) -> Profile:
    """The profile in ``path``.

    Raises:
        InvalidInputError: the file is missing or no profile.
    """
    try:
        return Profile.from_body(path.read_bytes())
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidInputError(
            f"cannot read a profile from {path}: {error}; `errata-server calibrate --save FILE` "
            "writes one",
            field="profile",
            file=path,
        ) from error


def ignored(_: Progress) -> None:
    """Progress within one edit; the benchmarks count edits."""


def prose_of(bench: Workbench) -> Sequence[str]:
    """All the ordinary text the workbench has."""
    return (*bench.texts.drift, *bench.texts.corpus)
