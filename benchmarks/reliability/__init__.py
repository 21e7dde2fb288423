"""What errata promises when things break, each promise as a suite that counts its breaches.

Invariant: every suite can fail: `tests/benchmarks` plants a defect for each and sees it counted.
"""
