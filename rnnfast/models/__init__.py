"""Language models as stacks of layers. Sequence models are in rnnfast.sequences."""

from rnnfast.models.base import BaseModel
from rnnfast.models.growing import grow, start_from
from rnnfast.models.language import LanguageModel
from rnnfast.models.language_base import LanguageModelBase
from rnnfast.models.loading import load_model
from rnnfast.models.model import Model
from rnnfast.models.rnnlm import BetterRnnlm, Rnnlm, SimpleRnnlm

__all__ = [
    "BaseModel",
    "BetterRnnlm",
    "LanguageModel",
    "LanguageModelBase",
    "Model",
    "Rnnlm",
    "SimpleRnnlm",
    "grow",
    "load_model",
    "start_from",
]
