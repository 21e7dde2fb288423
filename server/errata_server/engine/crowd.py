"""What a guard may meet besides its own subject: ordinary keys and known subjects."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from errata_server.engine.moments import SecondMoment
from errata_server.engine.subjects import SubjectKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Keys at one projection that are not of an edit."""

    moment: SecondMoment
    """Holds the stored sample of ordinary keys."""

    texts: Sequence[str]
    """The texts the sample came from."""

    known: SubjectKeys

    @property
    def ordinary(self) -> Float[Tensor, "row d_in"]:
        """The sampled keys."""
        return self.moment.sample

    def without(self, names: Sequence[str]) -> Bool[Tensor, " row"]:
        """Which of the sampled keys are of a text that holds none of ``names``."""
        return self.moment.without(self.texts, names)
