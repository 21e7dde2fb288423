"""Use cases: one class each. Sees the domain, the ledger and the engine's port; no tensors."""
