"""Generated messages and stubs of the wire package ``errata.v1``; `make proto` writes them."""
