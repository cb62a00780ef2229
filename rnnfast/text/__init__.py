"""Text: vocabularies, corpora, downloads, and sampling from a language model."""
