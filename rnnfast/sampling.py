"""Sampling text from a language model, one id at a time. Defined in rnnfast.text.sampling."""

from rnnfast.text.sampling import generate, stream

__all__ = ["generate", "stream"]
