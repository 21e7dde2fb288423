"""Locators: where a model keeps a fact.

`causal` traces exactly, in one pass; the other modules are the locators of the literature,
one each; `blocks` is the model taken apart, which they all stand on.
"""
