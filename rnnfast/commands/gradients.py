"""`rnnfast gradients`: a picture of exploding and vanishing gradients."""

from rnnfast.commands.arguments import add_command
from rnnfast.inspection.gradients import plot_gradients
from rnnfast.io.files import check_writable


def add(commands):
    command = add_command(
        commands,
        "gradients",
        gradients,
        "draw how gradients explode and vanish over time",
        "Draw the norm of the hidden state's gradient over time steps, for recurrent weights "
        "scaled up, down and orthogonal, RNN against LSTM, and the activation functions.",
    )
    what = "picture to write (default: gradients.png)"
    command.add_argument("--out", metavar="FILE", help=what)


def gradients(out="gradients.png"):
    """Draw how gradients explode and vanish over time; see rnnfast.inspection."""
    check_writable(out)
    plot_gradients(out)
    print(f"picture: {out}")
