"""Text from a language model, one id at a time; see rnnfast.text.sampling, where this lives."""

from rnnfast.text.sampling import generate, stream

__all__ = ["generate", "stream"]
