"""What all tests share: real databases, and property tests that do not depend on the clock."""

from hypothesis import settings

pytest_plugins = ["tests.support.databases"]

# The same examples on every run: a failure is found by whoever caused it. A slow machine is not
# a failure.
settings.register_profile("errata", deadline=None, derandomize=True)
settings.load_profile("errata")
