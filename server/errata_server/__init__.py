"""The errata server: serve a base model together with revertible edits from a ledger."""
