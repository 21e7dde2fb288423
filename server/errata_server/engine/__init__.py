"""Everything that touches tensors: the checkpoint, keys, values, the side branch, measurements.

Invariants: the base weights are never written; only model threads run a forward pass;
every tensor argument carries its shape.
"""
