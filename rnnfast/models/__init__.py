"""Models as stacks of layers: language models here, sequence models in rnnfast.sequences."""

from rnnfast.models.language import BaseModel, BetterRnnlm, LanguageModel, Rnnlm, SimpleRnnlm
from rnnfast.models.loading import load_model
from rnnfast.models.model import Model

__all__ = [
    "BaseModel",
    "BetterRnnlm",
    "LanguageModel",
    "Model",
    "Rnnlm",
    "SimpleRnnlm",
    "load_model",
]
