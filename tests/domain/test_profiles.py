from dataclasses import replace

from errata_server.domain.ids import Digest
from errata_server.domain.profiles import Profile
from tests.support.scripted_engine import scripted_profile


def test_a_profile_survives_its_body():
    profile = replace(scripted_profile(Digest("m" * 64)), evidence=({"layer": 1.0},))

    assert Profile.from_body(profile.body) == profile
    assert Profile.from_body(profile.body).id == profile.id


def test_another_seed_makes_another_profile():
    model = Digest("m" * 64)

    assert scripted_profile(model, seed=1).id != scripted_profile(model).id
