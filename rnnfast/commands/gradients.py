"""`rnnfast gradients`: a picture of exploding and vanishing gradients."""

from rnnfast.commands.arguments import Commands, add_command
from rnnfast.inspection.gradients import plot_gradients
from rnnfast.plot import check_picture


def add(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    command = add_command(
        commands,
        "gradients",
        gradients,
        "draw how gradients explode and vanish over time",
        "Draw the norm of the hidden state's gradient over time steps: for recurrent weights that "
        "are scaled up, scaled down or orthogonal, for an RNN and an LSTM, and for the activation "
        "functions.",
    )
    what = "picture to write, .png, .svg or .pdf (default: gradients.png)"
    command.add_argument("--out", metavar="FILE", help=what)


def gradients(out: str = "gradients.png") -> None:
    """Draw how gradients explode and vanish over time.

    Parameters
    ----------
    out : str
        The picture to write: a PNG, SVG or PDF by its ending.

    See Also
    --------
    rnnfast.inspection.plot_gradients : The function behind it.
    """
    check_picture(out)
    plot_gradients(out)
    print(f"picture: {out}")
