"""The last layer of a language model: affine, or a mixture of softmaxes."""

from typing import Any

from rnnfast.layers.affine import TimeAffine
from rnnfast.layers.dropout import TimeDropout
from rnnfast.layers.embedding import TimeEmbedding
from rnnfast.layers.initial import Initializer
from rnnfast.layers.losses import TimeAffineSoftmaxWithLoss
from rnnfast.layers.mixture import TimeMixtureSoftmax
from rnnfast.layers.mixture_loss import TimeMixtureSoftmaxWithLoss

MIXTURE = ("mixtures_below", "latent_size", "latent_dropout", "balance")  # they need `mixtures`


def check_output(owner: str, sizes: dict[str, Any]) -> None:
    """Check that the sizes of a LanguageModel's last layer go together.

    Raises
    ------
    ValueError
        For an option of a mixture without one, or widths that tied weights do not allow.
    """
    D, tied, last = sizes["wordvec_size"], sizes["tie_weights"], last_width(sizes)
    name = _width_name(sizes)
    if sizes["layers"] == 1 and "last_hidden_size" in sizes and last != sizes[name]:
        expected = f"{name} = {sizes[name]}"
        raise ValueError(f"{owner}: last_hidden_size must be {expected}, got {last}")
    if "mixtures" not in sizes:
        for option in MIXTURE:
            if option in sizes:
                got = sizes[option]
                raise ValueError(f"{owner}: {option} must be None without mixtures, got {got}")
        if tied and sizes["layers"] == 1 and sizes[name] != D:
            got = sizes[name]
            raise ValueError(f"{owner}: {name} must be wordvec_size = {D}, tied, got {got}")
        if tied and last != D:
            raise ValueError(
                f"{owner}: last_hidden_size must be wordvec_size = {D}, tied, got {last}"
            )
        return
    if tied and sizes.get("latent_size", D) != D:
        got = sizes["latent_size"]
        raise ValueError(f"{owner}: latent_size must be wordvec_size = {D}, tied, got {got}")


def last_width(sizes: dict[str, Any]) -> int:
    """The width of the last layer's h: of tied weights without a mixture, the embedding's."""
    narrow = sizes["tie_weights"] and "mixtures" not in sizes
    usual: int = sizes["wordvec_size" if narrow else _width_name(sizes)]
    width: int = sizes.get("last_hidden_size", usual)
    return width


def _width_name(sizes: dict[str, Any]) -> str:
    """The name of the size that is the width of h."""
    return "proj_size" if "proj_size" in sizes else "hidden_size"


def last_layer(
    draw: Initializer, sizes: dict[str, Any], embed: TimeEmbedding, widths: tuple[int, int]
) -> tuple[TimeAffine | TimeMixtureSoftmax, list[str | None]]:
    """Make the last layer of a LanguageModel.

    Parameters
    ----------
    draw : Initializer
    sizes : dict
    embed : TimeEmbedding
        To whose matrix W is tied.
    widths : tuple of int
        The widths of the input and the output of the last recurrent layer.

    Returns
    -------
    layer
    names : list of (str or None)
        The names of its weights in weight files; None for the embedding's matrix.
    """
    V, H = sizes["vocab_size"], widths[1]
    K, below = sizes.get("mixtures"), sizes.get("mixtures_below")
    D = H if K is None else sizes.get("latent_size", sizes["wordvec_size"])
    tied = sizes["tie_weights"]
    W, b = embed.W.T if tied else draw.normal(D, V), draw.zeros(V)
    names = [None if tied else "affine_W", "affine_b"]  # the file has embed_W.T only once
    if K is None:
        return TimeAffine(W, b, device=draw.device), names
    prior_W = draw.normal(H, K + (below or 0))
    sources = [(H, K)] if below is None else [(widths[0], below), (H, K)]
    latents = [(draw.normal(width, count * D), draw.zeros(count * D)) for width, count in sources]
    names.append("prior_W")
    for i in range(1, len(sources) + 1):
        number = "" if len(sources) == 1 else i
        names += [f"latent_W{number}", f"latent_b{number}"]
    return TimeMixtureSoftmax(W, b, prior_W, latents, device=draw.device), names


def loss_of(layer: Any, sizes: dict[str, Any], device: str | None) -> Any:
    """Make the loss layer that goes with a last layer."""
    if isinstance(layer, TimeMixtureSoftmax):
        balance = sizes.get("balance", 0.0)
        return TimeMixtureSoftmaxWithLoss(layer, balance=balance, device=device)
    return TimeAffineSoftmaxWithLoss(layer, device=device)


def inner_drop(layer: Any) -> list[TimeDropout]:
    """The dropout layer inside of a last layer, if there is one."""
    drop = getattr(layer, "drop", None)
    return [] if drop is None else [drop]
