"""What somebody with the database's own tools can do to a ledger behind errata's back."""

from benchmarks.hand import disarm, raw_connection, tampering

__all__ = ["disarm", "raw_connection", "tampering"]
