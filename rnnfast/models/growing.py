"""A language model that starts from a trained one: of the same depth, or with fewer layers."""

from typing import Any

from rnnfast import checks
from rnnfast.io.weights import copy_into, to_numpy
from rnnfast.models.language import LanguageModel
from rnnfast.models.language_base import LanguageModelBase


def grow(trained: LanguageModel, layers: int | None = None, *, rng: Any = None) -> LanguageModel:
    """Make a deeper language model that starts from a trained one: gradual learning.

    Parameters
    ----------
    trained : LanguageModel
        It is not changed.
    layers : int, optional
        The number of recurrent layers, at least those of `trained`; None is one more.
    rng : seed, Generator or None
        The source of the new layers' weights, and of the seed of masks; as of `LanguageModel`.

    Returns
    -------
    LanguageModel
        Its other sizes, dtype and device are those of `trained`; its recurrent state is zero.

    Raises
    ------
    TypeError
        If `trained` is another model, whose number of layers is fixed.
    ValueError
        If there are fewer layers, or if the widths do not fit; see `start_from`.

    References
    ----------
    Aharoni, Rattner, Permuter 2017, https://arxiv.org/abs/1708.08863.

    Examples
    --------
    Train one layer, then two, then three. An optimiser is for one model:

    >>> import numpy as np
    >>> from rnnfast.models import LanguageModel, grow
    >>> from rnnfast.optim import SGD
    >>> from rnnfast.trainer import RnnlmTrainer
    >>> ids, model = np.arange(41) % 4, LanguageModel(4, 6, 6, dropout=0.2, rng=0)
    >>> for layers in 1, 2, 3:
    ...     model = model if layers == 1 else grow(model, layers, rng=layers)
    ...     trainer = RnnlmTrainer(model, SGD(1.0))
    ...     trainer.fit(ids[:-1], ids[1:], 2, batch_size=2, time_size=5, eval_interval=None)
    >>> len(model.recurrent_layers)
    3
    """
    if not isinstance(trained, LanguageModel) or "layers" not in trained.sizes:
        what = "trained must be a LanguageModel, of any number of layers"
        raise TypeError(f"grow: {what}, got {type(trained).__name__}")
    depth = trained.sizes["layers"]
    count = checks.count("grow", "layers", depth + 1 if layers is None else layers, least=depth)
    like = trained.recurrent_layers[0]
    sizes: dict[str, Any] = trained.sizes | {"layers": count}
    model = type(trained)(**sizes, rng=rng, dtype=like.Wh.dtype, device=like.device)
    start_from(model, trained, "grow: trained")
    return model


def start_from(model: LanguageModelBase, trained: LanguageModelBase, name: str = "trained") -> None:
    """Copy the weights of a trained language model into one with as many layers or more.

    Parameters
    ----------
    model : LanguageModelBase
        It is changed: its first recurrent layers and everything outside of the recurrent layers
        get the trained weights. The layers above, under the output, keep the weights that they
        have.
    trained : LanguageModelBase
        A model of the same sizes, but for the number of recurrent layers.
    name : str
        What errors call `trained`.

    Raises
    ------
    ValueError
        If the weights do not fit. Nothing has been changed then.

    Notes
    -----
    This is a step of gradual learning, as `grow` does it: train a model with one layer, then start
    one with two layers from it and train that, and so on. The layer that was the last one must have
    the width that this place has in the deeper model. So if tied weights make the last layer as
    wide as a word vector, the others must have this width, too; a mixture of softmaxes leaves their
    widths free.

    References
    ----------
    Aharoni, Rattner, Permuter 2017, https://arxiv.org/abs/1708.08863.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.models import LanguageModel, start_from
    >>> one, two = (LanguageModel(10, 4, 6, layers=layers, rng=0) for layers in (1, 2))
    >>> start_from(two, one)
    >>> np.array_equal(one.recurrent_layers[0].Wx, two.recurrent_layers[0].Wx)
    True
    """
    layers, known = model.recurrent_layers, trained.recurrent_layers
    if len(known) > len(layers):
        raise ValueError(
            f"{name}: must have at most {len(layers)} recurrent layers, as the model has, "
            f"found {len(known)}"
        )
    kinds = type(layers[0]).__name__, type(known[0]).__name__
    if kinds[0] != kinds[1]:
        raise ValueError(f"{name}: the layers must be {kinds[0]}, found {kinds[1]}")
    width, found = (of[len(known) - 1].Wh.shape[0] for of in (layers, known))
    if len(known) < len(layers) and width != found:
        raise ValueError(
            f"{name}: its last layer must be {width} wide, as layer {len(known)} of the model is, "
            f"found {found}; with tied weights the last layer is as wide as a word vector, so that "
            "the others must be, too, unless the output is a mixture"
        )
    copy_into(
        _by_place(model, len(known)),
        {place: to_numpy(param) for place, param in _by_place(trained, len(known)).items()},
        name,
    )


def _by_place(model: LanguageModelBase, depth: int) -> dict[str, Any]:
    """The parameters, of the first recurrent layers only, by names that no depth changes."""
    places: dict[int, str | None] = {}
    for number, layer in enumerate(model.recurrent_layers, start=1):
        for (name, _, _), param in zip(layer._specs, layer.params, strict=True):
            places[id(param)] = f"{name} of layer {number}" if number <= depth else None
    named = {places.get(id(p), name): p for name, p in model._named_params().items()}
    return {place: param for place, param in named.items() if place is not None}
