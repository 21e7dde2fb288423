"""What errata is about, in plain Python: facts, edits, patches, checks, revisions.

Invariants: nothing here imports torch, SQLAlchemy, gRPC or any other layer of ours, and
nothing here does I/O. Every value is frozen and validated by its constructor.
"""
