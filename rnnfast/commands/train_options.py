"""The options of `rnnfast train`, one for each of its settings."""

import argparse
from collections.abc import Callable
from typing import Any

from rnnfast.commands.arguments import (
    add_machine,
    factor,
    fraction,
    natural_int,
    nonnegative_float,
    or_none,
    positive_float,
    positive_int,
    positive_ints,
    ratio,
    seconds,
)
from rnnfast.commands.recipes import RECIPES
from rnnfast.commands.settings import (
    BATCH,
    CELLS,
    DECAYING,
    FREE,
    MODELS,
    RULES,
    SCHEDULES,
    Settings,
    option_name,
)
from rnnfast.kernels import PRECISIONS
from rnnfast.text.vocabulary import UNITS

Group = argparse._ArgumentGroup


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `rnnfast train`."""
    usual = Settings()

    def option(
        group: Group,
        name: str,
        kind: Callable[[str], Any],
        metavar: str,
        help: str,
        default: str | None = None,
    ) -> None:
        shown = getattr(usual, name.replace("-", "_"), None) if default is None else default
        help += f" (default: {shown})"
        if kind is not str and getattr(usual, name.replace("-", "_"), "") is None:
            kind = or_none(kind)  # takes away what a recipe has
        group.add_argument(f"--{name}", type=kind, metavar=metavar, help=help)

    def choice(group: Group, name: str, choices: tuple[str, ...], help: str) -> None:
        help += f" (default: {getattr(usual, name.replace('-', '_'))})"
        group.add_argument(f"--{name}", choices=choices, help=help)

    def flag(group: Group, name: str, help: str) -> None:
        group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=help)

    group = command.add_argument_group("text and files")
    what = "UTF-8 text; without it: Python's own documentation"
    group.add_argument("file", nargs="?", metavar="FILE", help=what)
    choice(group, "level", tuple(UNITS), "kind of token")
    what = "tokens with fewer than N occurrences are unknown; the model learns a token for them"
    option(group, "min-count", positive_int, "N", what)
    what = "validation text: the weights of the epoch with the lowest perplexity are kept"
    option(group, "valid", str, "FILE", what, "the last 5%% of the training text")
    option(group, "test", str, "FILE", "text for the final evaluation", "none")
    what = "settings of a paper, see `rnnfast recipes`; other options replace single ones, and the "
    what += "value none takes one away (of numbers that are usually 0, the value 0)"
    group.add_argument("--recipe", choices=tuple(RECIPES), help=what)
    what = "weight file to start from: of the same sizes, for example the best one of another run "
    what += "(fine-tuning), or with fewer layers (gradual learning); the layers above are new"
    option(group, "init", str, "FILE", what, "random weights")
    option(group, "out", str, "DIR", "folder for weights, checkpoint, log, curve", "rnnfast-out")
    free = ", ".join(f"--{option_name(name)}" for name in FREE)
    batch = " and ".join(f"--{option_name(name)}" for name in BATCH)
    what = "continue from the checkpoint in DIR with its settings; these may be changed: "
    what += f"{free}, and between two epochs {batch}"
    again = group.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help=what)
    what = "start anew in a DIR that holds a run; its weights stay until the new ones are written"
    again.add_argument("--force", action="store_true", help=what)
    group.add_argument(
        "--plot",
        action=argparse.BooleanOptionalAction,
        dest="plot_curve",
        help="draw the perplexity curve (default: if matplotlib is installed)",
    )
    option(group, "save-every", seconds, "SECONDS", "time between checkpoints within an epoch")

    group = command.add_argument_group("model")
    what = "the book's SimpleRnnlm (RNN), Rnnlm (LSTM), BetterRnnlm (two LSTM, dropout, tied), or "
    choice(group, "model", tuple(MODELS), f"{what}custom: the options below")
    option(group, "hidden", positive_int, "N", "hidden units per layer")
    what = "size of the word vectors"
    option(group, "embedding", positive_int, "N", what, "64; that of --hidden with better or --tie")
    what = "dropout ratio, for better and custom"
    option(group, "dropout", ratio, "X", what, "0.5 for better, 0 for custom")
    choice(group, "cell", CELLS, "custom: type of recurrent layer")
    option(group, "layers", positive_int, "N", "custom: number of recurrent layers")
    what = "custom: gradual learning: train the first layer alone for so many epochs, then add the "
    what += "next, and so on; all layers have what is left of --epochs"
    option(group, "gradual", positive_ints, "N[,N...]", what, "all layers at once")
    what = "custom: hidden units of the last of several layers"
    option(group, "last-hidden", positive_int, "N", what, "that of --hidden; of --embedding, tied")
    what = "custom: how often x and h gate each other before each step of a mogrifier"
    option(group, "rounds", positive_int, "N", what, "5")
    what = "custom: rank of the matrices of these rounds"
    option(group, "rank", positive_int, "N", what, "none: whole matrices")
    what = "custom: width of h of an lstmp, to which its hidden units are projected"
    option(group, "proj-size", positive_int, "N", what, "that of --hidden")
    what = "custom: heads of an slstm, which divide the width of each layer"
    option(group, "heads", positive_int, "N", what, "1")
    what = "custom: one dropout mask for all time steps, also on the recurrent path"
    flag(group, "variational", what)
    what = "custom: dropout ratio after the embedding"
    option(group, "input-dropout", ratio, "X", what, "that of --dropout")
    what = "custom: dropout ratio between recurrent layers"
    option(group, "between-dropout", ratio, "X", what, "that of --dropout")
    what = "custom: dropout ratio before the output"
    option(group, "output-dropout", ratio, "X", what, "that of --dropout")
    what = "custom: ratio of words whose vectors are dropped"
    option(group, "embedding-dropout", ratio, "X", what, "0")
    option(group, "weight-drop", ratio, "X", "custom: ratio of recurrent weights that are dropped")
    what = "custom: dropout ratio of the candidates, not of an rnn or slstm (recurrent dropout)"
    option(group, "recurrent-dropout", ratio, "X", what, "0")
    what = (
        "custom: probability that a unit of h keeps its value at a step, not of an slstm (zoneout)"
    )
    option(group, "h-zoneout", ratio, "X", what, "0")
    what = "custom: the same for the cell of an lstm of any kind but slstm"
    option(group, "c-zoneout", ratio, "X", what, "0")
    what = "custom: penalty on large activations of the last layer (AR)"
    option(group, "alpha", nonnegative_float, "X", what, "0")
    what = "custom: penalty on their changes from step to step (TAR)"
    option(group, "beta", nonnegative_float, "X", what, "0")
    what = "custom: penalty by decoding the token before from the prediction (PDR; 0.001)"
    option(group, "past-decode", nonnegative_float, "X", what, "0")
    what = "custom: size of adversarial noise on the vectors of target tokens (0.005)"
    option(group, "adversarial", nonnegative_float, "X", what, "0")
    what = "custom: factor of FRAGE, which hides from word vectors how frequent words are (0.02)"
    option(group, "frage", nonnegative_float, "X", what, "0")
    what = "custom: learning rate of its discriminator"
    option(group, "frage-rate", nonnegative_float, "X", what, "0.02")
    what = "custom: number of softmaxes of which the output is a mixture"
    option(group, "mixtures", positive_int, "N", what, "none")
    what = "custom: softmaxes from the layer below, in addition (direct output connection)"
    option(group, "mixtures-below", positive_int, "N", what, "none")
    what = "custom: size of the latent vectors of a mixture"
    option(group, "latent", positive_int, "N", what, "that of --embedding")
    what = "custom: dropout ratio of the latent vectors of a mixture"
    option(group, "latent-dropout", ratio, "X", what, "0")
    what = "custom: penalty on mixture weights that are not balanced"
    option(group, "balance", nonnegative_float, "X", what, "0")
    what = "custom: embedding and output share one matrix"
    flag(group, "tie", what)

    group = command.add_argument_group("training")
    option(group, "epochs", positive_int, "N", "passes over the text")
    option(group, "batch-size", positive_int, "N", "samples in parallel")
    option(group, "time-size", positive_int, "N", "time steps of truncated BPTT")
    what = "draw the time steps of each iteration around --time-size and scale --lr with them"
    flag(group, "vary-length", what)
    what = "reset the state of each sample once in N iterations; 0 as in the book: never"
    option(group, "restart-every", natural_int, "N", what)
    what = "update rule; asgd averages the weights, ntasgd does so when --valid stops improving"
    choice(group, "optimizer", tuple(RULES), what)
    what = "ntasgd averages after a check on --valid that is worse than the best N checks before"
    option(group, "nonmono", positive_int, "N", what, "5")
    what = f"factor of an L2 penalty, with {', '.join(DECAYING)}"
    option(group, "weight-decay", nonnegative_float, "X", what, "0")
    rates = ", ".join(f"{name} {rate}" for name, (_, rate) in RULES.items())
    option(group, "lr", positive_float, "X", "learning rate", rates)
    what = (
        "divide the learning rate by X after an epoch without improvement on --valid (the book: 4)"
    )
    option(group, "lr-decay", factor, "X", what, "never")
    what = "the learning rate over the epochs, by which --lr is multiplied: constant; step, once "
    what += "in --step-every epochs by --step-factor; cosine, down to 0 at the end of --epochs"
    choice(group, "schedule", SCHEDULES, what)
    what = "epochs in which the learning rate rises from a tenth, before --schedule begins"
    option(group, "warm-up", positive_float, "X", what, "none")
    option(group, "step-every", positive_float, "X", "epochs between two steps", "none")
    option(group, "step-factor", fraction, "X", "factor of each step", "0.1")
    what = "end after N epochs without improvement on --valid"
    option(group, "patience", positive_int, "N", what, "after --epochs")
    option(group, "max-grad", positive_float, "X", "maximum norm of the gradient")
    what = "how float32 matrices are multiplied: highest, in float32; high, on a GPU in TF32; "
    what += "medium, on a CPU in bfloat16 (for one with AMX)"
    choice(group, "matmul-precision", PRECISIONS, what)
    option(group, "eval-interval", positive_int, "N", "iterations per line of output")
    option(group, "seed", natural_int, "N", "seed of weights and samples")
    option(group, "sample", natural_int, "N", "tokens to generate at the end")

    add_machine(command.add_argument_group("machine"))

    group = command.add_argument_group("several ranks, started by mpiexec")
    what = "updates that each rank makes alone before it exchanges weights, for slow networks"
    option(group, "sync-every", positive_int, "N", what)
    option(group, "outer-lr", positive_float, "X", "learning rate of these exchanges; 1: the mean")
    option(group, "outer-momentum", ratio, "X", "their momentum")
    flag(group, "compress", "exchange numbers of 16 bits, with error feedback")
    what = "print what the exchange of gradients has cost"
    group.add_argument("--verbose", action="store_true", help=what)
