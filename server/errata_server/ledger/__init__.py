"""The ledger: what was edited, on what evidence, and what each branch serves.

Invariants: every table but `branches` (its head) and `operations` is insert-only, by the
database's own triggers; a body is stored as the very bytes that were hashed, and all other
columns are for look-up only; revisions are gapless and commit-ordered.
"""
