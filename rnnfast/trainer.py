"""Trainers, their callbacks and evaluation, under the names of the book's common/trainer.py.

The code is in rnnfast.training.
"""

from rnnfast.distributed.gpus import take_gpu
from rnnfast.training.answers import eval_exact, eval_labels, eval_seq2seq
from rnnfast.training.callbacks import (
    Checkpoint,
    JsonlLog,
    Plateau,
    ProgressBar,
    Watch,
    check_divergence,
)
from rnnfast.training.dynamic import eval_dynamic, gradient_mean_squares
from rnnfast.training.evaluation import (
    PerplexityWarning,
    eval_accuracy,
    eval_perplexity,
    perplexity,
)
from rnnfast.training.language import RnnlmTrainer
from rnnfast.training.loop import Step
from rnnfast.training.neural_cache import NeuralCache, eval_cache
from rnnfast.training.rounds import Sync
from rnnfast.training.step import TrainingStep
from rnnfast.training.stopping import Diverged, Stop, stop_on_interrupt
from rnnfast.training.trainers import Trainer
from rnnfast.training.validation import eval_loss

__all__ = [
    "Checkpoint",
    "Diverged",
    "JsonlLog",
    "NeuralCache",
    "PerplexityWarning",
    "Plateau",
    "ProgressBar",
    "RnnlmTrainer",
    "Step",
    "Stop",
    "Sync",
    "Trainer",
    "TrainingStep",
    "Watch",
    "check_divergence",
    "eval_accuracy",
    "eval_cache",
    "eval_dynamic",
    "eval_exact",
    "eval_labels",
    "eval_loss",
    "eval_perplexity",
    "eval_seq2seq",
    "gradient_mean_squares",
    "perplexity",
    "stop_on_interrupt",
    "take_gpu",
]
