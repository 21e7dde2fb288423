"""The ``errata`` command line; one module a family of verbs.

Exit codes: 0 done, 1 failed, 2 usage, 3 rejected by the checks, 130 interrupted.
"""
