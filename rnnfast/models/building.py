"""How the models of rnnfast.sequences make their recurrent layers."""

from rnnfast import checks
from rnnfast.layers.cells import BIDIRECTIONAL, RECURRENT, check_cell


def recurrent_layers(draw, cell, D, H, layers, *, bidirectional=False, stateful=False):
    """The layers of a stack that reads D numbers, and the names of their weights."""
    kind = (BIDIRECTIONAL if bidirectional else RECURRENT)[cell]
    directions = ("forward_", "backward_") if bidirectional else ("",)
    made, names = [], []
    for k in range(1, layers + 1):
        weights = [W for _ in directions for W in draw.recurrent(RECURRENT[cell].gates, D, H)]
        made.append(kind(*weights, stateful=stateful, device=draw.device))
        D = H * len(directions)
        number = "" if layers == 1 else k
        for direction in directions:
            names += [f"{direction}{cell}_{name}{number}" for name in ("Wx", "Wh", "b")]
    return made, names


def h_places(stack, cell):
    """Where the h are in the state of a stack; the last ones are the last layer's."""
    return range(0, len(stack.state), len(RECURRENT[cell].states))


def checked_sizes(owner, cell, sizes):
    sizes = {name: checks.count(owner, name, value) for name, value in sizes.items()}
    check_cell(owner, cell)
    return sizes | {"cell": cell}


def coder_sizes(owner, vocab_size, wordvec_size, hidden_size, layers, cell):
    sizes = {
        "vocab_size": vocab_size,
        "wordvec_size": wordvec_size,
        "hidden_size": hidden_size,
        "layers": layers,
    }
    return checked_sizes(owner, cell, sizes)


def filled(state, stack):
    """state with None, zeros, for what is not given."""
    return (*state, *[None] * (len(stack.state) - len(state)))
