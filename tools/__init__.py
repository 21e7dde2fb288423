"""Build the bundled model: its facts, its corpus, its training and its figures."""
