"""`rnnfast info`: versions and devices, or the contents of a weight file."""

from rnnfast.commands.arguments import Commands, add_command, add_model
from rnnfast.config import show_config
from rnnfast.io.book import is_pickle, load_pickle
from rnnfast.io.weights import load_weights
from rnnfast.text.vocabulary import UNITS


def add(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    command = add_command(
        commands,
        "info",
        info,
        "print versions, instruction sets, threads, devices; or the contents of a weight file",
        "Print versions, instruction sets, threads and devices, as a bug report needs them. With "
        "MODEL, print the contents of a weight file.",
    )
    add_model(command, optional=True)


def info(model: str | None = None) -> None:
    """Print versions, instruction sets, threads and devices, or the contents of a weight file.

    Parameters
    ----------
    model : str, optional
        A weight file: .safetensors or a pickle of the book.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read or is no weight file.
    """
    if model is None:
        show_config()
        return
    if is_pickle(model):
        arrays = load_pickle(model)
        print(f"{model}: a pickled list of {len(arrays)} arrays")
        for array in arrays:
            print(f"  {array.dtype} {array.shape}")
        return
    weights = load_weights(model)
    print(f"{model}: {weights.model}")
    for name, value in weights.sizes.items():
        print(f"  {name:<15} {value}")
    if weights.vocabulary is None:
        print("  vocabulary      none")
    else:
        unknown = "" if weights.unknown is None else f", {weights.unknown!r} for all others"
        unit = UNITS.get(weights.level, weights.level)
        print(f"  vocabulary      {len(weights.vocabulary):,} {unit}{unknown}")
    total = sum(array.size for array in weights.params.values())
    print(f"  parameters      {total:,}")
    for name, array in weights.params.items():
        print(f"    {name:<13} {array.dtype} {array.shape}")
