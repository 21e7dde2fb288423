"""Editing, measured: cases, methods, judging, firings and plots.

Invariants: every method edits the same cases and is judged by the same prompts; nothing a
method did outlives its ``with`` block.
"""
