"""Measurements of errata: each module prints a table, and with ``--json`` one document.

Run one with ``python -m benchmarks.NAME``. The document's ``figures`` hold the numbers that
`docs/benchmarks.md` quotes, beside the command that printed them.
"""
