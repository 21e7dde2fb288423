"""Keys of the subjects the model is known to know something about, computed once.

They screen: whose guard would fire on whom. What then keeps the two apart is computed in full.
Invariant: the cache's name holds checkpoint, module, contexts and subjects, so that no two can be
mixed up.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from errata_server.domain import canonical
from errata_server.domain.errors import InvalidInputError
from errata_server.domain.facts import PLACEHOLDER
from errata_server.domain.operations import Progress, ReportProgress
from errata_server.domain.profiles import Profile
from errata_server.engine.keys import keys_in
from errata_server.engine.runner import Runner
from errata_server.engine.tensor_files import save_whole

CONTEXTS: Final = ("{}", "They went to {}")
"""Where each subject's key is taken: at the start of a text, and within one."""

SUBJECTS: Final = 96
"""Subjects of one forward pass, each in every context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectKeys:
    """Where known subjects lie among the keys of one projection."""

    subjects: tuple[str, ...]
    keys: Float[Tensor, "subject context d_in"]


def collect(
    runner: Runner,
    subjects: Sequence[str],
    profile: Profile,
    *,
    cache: Path,
    progress: ReportProgress,
) -> SubjectKeys:
    """The keys of ``subjects`` at the profile's projection, from the cache where they are.

    A subject the model cannot take (too long, no tokens of its own) is left out. A damaged
    file counts as missing.

    Raises:
        CancelledError: ``progress`` asked for it.
    """
    path = cache / f"subjects-{_name(runner, subjects, profile)}.safetensors"
    found = _stored(path)
    if found is None:
        fitting = [subject for subject in subjects if _fits(runner, subject)]
        found = _computed(runner, fitting, profile, progress)
        save_whole({"keys": found.keys}, path, {"subjects": json.dumps(found.subjects)})
    return found


def _name(runner: Runner, subjects: Sequence[str], profile: Profile) -> str:
    content = {
        "model": runner.checkpoint.digest,
        "module": profile.module,
        "contexts": list(CONTEXTS),
        "subjects": list(subjects),
    }
    return hashlib.sha256(canonical.encode(content)).hexdigest()[:32]


def _fits(runner: Runner, subject: str) -> bool:
    try:
        for text in _texts(subject):
            runner.tokens.fit(text)
            runner.tokens.subject_end(text, subject)
    except InvalidInputError:
        return False
    return True


def _texts(subject: str) -> list[str]:
    return [context.replace(PLACEHOLDER, subject) for context in CONTEXTS]


def _computed(
    runner: Runner, subjects: Sequence[str], profile: Profile, progress: ReportProgress
) -> SubjectKeys:
    found = [torch.zeros(0, len(CONTEXTS), profile.d_in)]
    for start in range(0, len(subjects), SUBJECTS):
        progress(Progress(stage="subjects", done=start, total=len(subjects)))
        some = subjects[start : start + SUBJECTS]
        mentions = [(text, subject) for subject in some for text in _texts(subject)]
        keys = keys_in(runner, profile.module, mentions).cpu()
        found.append(keys.unflatten(0, (len(some), len(CONTEXTS))))
    return SubjectKeys(subjects=tuple(subjects), keys=torch.cat(found))


def _stored(path: Path) -> SubjectKeys | None:
    """What is at ``path``, or None where that is nothing or not whole."""
    try:
        with safe_open(path, framework="pt") as stored:
            return SubjectKeys(
                subjects=tuple(json.loads(stored.metadata()["subjects"])),
                # A copy: a file cut short under a mapping kills the process.
                keys=stored.get_tensor("keys").clone(),
            )
    except (OSError, SafetensorError, LookupError, TypeError, ValueError):
        return None
