"""A scripted engine that can compose other weights than everybody else."""

from tests.support.scripted_engine import ScriptedEngine
from tests.support.services import scripted_engine


class DoubtfulEngine(ScriptedEngine):
    """An engine whose digests are wrong while it is told so."""

    wrong = False

    def compose(self, patches, load, composition):
        weights = super().compose(patches, load, composition)
        if self.wrong:
            object.__setattr__(weights, "digest", weights.digest[::-1])
        return weights


def doubtful_engine(*, wrong: bool = False) -> DoubtfulEngine:
    """One that knows what `scripted_engine` knows."""
    engine = DoubtfulEngine(base=scripted_engine().base)
    engine.wrong = wrong
    return engine
