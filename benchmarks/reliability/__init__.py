"""What errata promises when things break, each promise as a suite that counts its breaches.

Invariant: every suite can fail: `tests/benchmarks` plants a defect for each and sees it counted.
"""

import os

# Suites start servers while clients of theirs are at work: gRPC's own handling of forks, which a
# process that only starts others does not need, can leave such a client waiting for ever.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
