"""The layers of a language model that regularise it: dropout, AR, TAR, and the loss."""

from typing import Any, NamedTuple

from rnnfast.layers.affine import TimeAffine
from rnnfast.layers.dropout import TimeDropout
from rnnfast.layers.embedding import TimeEmbedding
from rnnfast.layers.frequency import FrequencyDiscriminator
from rnnfast.layers.initial import Initializer
from rnnfast.layers.mixture import TimeMixtureSoftmax
from rnnfast.layers.past_decode import PastDecode
from rnnfast.layers.regularization import (
    ActivationRegularization,
    TemporalActivationRegularization,
)
from rnnfast.layers.regularized_loss import TimeRegularizedSoftmaxWithLoss
from rnnfast.layers.regularized_mixture import TimeRegularizedMixtureSoftmaxWithLoss
from rnnfast.models.building import OF_STEPS

Regularized = TimeRegularizedSoftmaxWithLoss | TimeRegularizedMixtureSoftmaxWithLoss
FRAGE_RATE = 0.02  # the learning rate of its discriminator


class Drops(NamedTuple):
    """The dropout layers of a LanguageModel.

    Attributes
    ----------
    above : list of (TimeDropout or None)
        Those in the stack: above the embedding and above each recurrent layer. None is no dropout.
    h, Wh : list of TimeDropout
        They draw the h_mask and the Wh_mask of each recurrent layer; empty if there are none.
    words : TimeDropout or None
        Draws the word_mask of the embedding.
    latents : TimeDropout or None
        Drops elements of the latent vectors of a mixture of softmaxes.
    of_steps : dict
        Argument of a recurrent layer's forward -> list of TimeDropout, one for each layer; see
        `mask_of_steps`.
    """

    above: list[TimeDropout | None]
    h: list[TimeDropout]
    Wh: list[TimeDropout]
    words: TimeDropout | None
    latents: TimeDropout | None
    of_steps: dict[str, list[TimeDropout]]


def drop_layers(draw: Initializer, sizes: dict[str, Any]) -> Drops:
    """Make the dropout layers of a LanguageModel from its sizes.

    The keys of the model's seed: layers + 1 for the stack, as many as layers for h, the same
    number for Wh, one for words, one for latent vectors, as many as layers for candidates, for
    zoneout of h, for zoneout of c. A place has its key whether or not others have dropout.
    """
    layers, dropout, weight_drop = sizes["layers"], sizes["dropout"], sizes["weight_drop"]
    words, latents = (sizes.get(f"{name}_dropout", 0.0) for name in ("embedding", "latent"))
    places = ("input", *["between"] * (layers - 1), "output")
    ratios = [sizes.get(f"{place}_dropout", dropout) for place in places]
    of_steps = [sizes.get(name, 0.0) for name in OF_STEPS]
    if not any((*ratios, dropout, weight_drop, words, latents, *of_steps)):
        # then, as in the book, only weights come from np.random
        return Drops([None] * (layers + 1), [], [], None, None, {})
    variational, seed = sizes["variational_dropout"], draw.seed()

    def one(ratio: float, key: int, variational: bool = False) -> TimeDropout:
        return TimeDropout(ratio, (seed, key), variational=variational, device=draw.device)

    each = range(layers)
    return Drops(
        [one(ratio, key, variational) if ratio else None for key, ratio in enumerate(ratios)],
        [one(dropout, layers + 1 + k) for k in each] if dropout and variational else [],
        [one(weight_drop, 2 * layers + 1 + k) for k in each] if weight_drop else [],
        one(words, 3 * layers + 1) if words else None,
        one(latents, 3 * layers + 2, variational=True) if latents else None,
        {
            argument: [one(ratio, (3 + i) * layers + 3 + k, variational) for k in each]
            for i, (ratio, argument) in enumerate(zip(of_steps, OF_STEPS.values(), strict=True))
            if ratio
        },
    )


def mask_of_steps(name: str, drop: TimeDropout, xs: Any, width: int, train: bool) -> Any:
    """Make the candidate_mask or the zoneout of a recurrent layer for one call of its forward.

    Parameters
    ----------
    name : {"candidate_mask", "h_zoneout", "c_zoneout"}
    drop : TimeDropout
        Its ratio, and the masks. Where an element is dropped, zoneout keeps the old state.
    xs : array (N, T, D)
        The input of the layer.
    width : int
        The layer's `width_of(name)`.
    train : bool
        Draw a mask, unless `drop` is switched off.

    Returns
    -------
    array, float or None
        For `name`. Without a mask zoneout is the probability, and nothing is dropped.
    """
    drawn, shape = train and drop.train_flg, (*xs.shape[:2], width)
    if name == "candidate_mask":
        if not drawn:
            return None
        return drop.draw(xs, (shape[0], width) if drop.variational else shape)
    if not drawn:
        return drop.dropout_ratio
    mask = drop.draw(xs, shape)
    return (mask == 0).astype(mask.dtype)


def regularized(
    draw: Initializer, sizes: dict[str, Any], stack: list[Any], drops: Drops
) -> list[Any]:
    """The layers with dropout above them, where there is some, and AR and TAR above the last."""
    found: list[Any] = []
    for layer, drop in zip(stack, drops.above, strict=True):
        found.append(layer)
        if layer is stack[-1] and sizes.get("beta"):
            found.append(TemporalActivationRegularization(sizes["beta"], device=draw.device))
        if drop is not None:
            found.append(drop)
    if sizes.get("alpha"):
        found.append(ActivationRegularization(sizes["alpha"], device=draw.device))
    return found


def regularized_loss(
    draw: Initializer, sizes: dict[str, Any], output: TimeAffine | TimeMixtureSoftmax
) -> tuple[Regularized | None, list[str]]:
    """Make the loss layer with past decode and noise, and name its parameters; None without."""
    past_decode, adversarial = sizes.get("past_decode", 0.0), sizes.get("adversarial", 0.0)
    if not (past_decode or adversarial):
        return None, []
    past, names = None, []
    if past_decode:
        H, V = output.params[0].shape
        weights = draw.normal(H, H), draw.zeros(H), draw.zeros(V)
        past = PastDecode(output, *weights, factor=past_decode, device=draw.device)
        names = ["past_W", "past_b", "past_c"]
    options: dict[str, Any] = {"adversarial": adversarial, "past": past, "device": draw.device}
    if isinstance(output, TimeMixtureSoftmax):
        options["balance"] = sizes.get("balance", 0.0)
        return TimeRegularizedMixtureSoftmaxWithLoss(output, **options), names
    return TimeRegularizedSoftmaxWithLoss(output, **options), names


def check_frage(owner: str, sizes: dict[str, Any]) -> None:
    """ValueError for a rate of FRAGE without FRAGE."""
    if "frage_rate" in sizes and "frage" not in sizes:
        got = sizes["frage_rate"]
        raise ValueError(f"{owner}: frage_rate must be None without frage, got {got}")


def adversary(
    draw: Initializer, sizes: dict[str, Any], embed: TimeEmbedding
) -> tuple[FrequencyDiscriminator | None, list[str]]:
    """Make the discriminator of FRAGE, and name its parameters; None without it."""
    if not sizes.get("frage"):
        return None, []
    weights = draw.normal(sizes["wordvec_size"], 1), draw.zeros(1)
    rate = sizes.get("frage_rate", FRAGE_RATE)
    layer = FrequencyDiscriminator(
        embed, *weights, factor=sizes["frage"], rate=rate, device=draw.device
    )
    return layer, ["frage_W", "frage_b"]
