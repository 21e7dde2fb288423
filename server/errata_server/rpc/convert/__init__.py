"""Messages to domain types and back: the only place that knows both.

One module a noun. Everything a client sends is checked here or in a domain constructor, so
that what comes through is well-formed; every complaint names the field.
"""
