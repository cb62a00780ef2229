"""What all models share: parameters by name, weight files, copies that keep what is tied."""

from rnnfast import checks
from rnnfast.io.weights import Weights, load_into, save_weights, to_numpy


class Model:
    """`params` and `grads` list the layers' arrays in order, `sizes` the constructor's arguments
    that rebuild the model. Copies and pickles keep what is tied: see __getstate__.
    """

    def __init__(self, layers, param_names, sizes):
        self.layers = layers
        self.params = [param for layer in layers for param in layer.params]
        self.grads = [grad for layer in layers for grad in layer.grads]
        self._names = param_names
        self.sizes = sizes

    @property
    def param_names(self):
        """The names of params in weight files; None for one that is another's view.

        One that was tied to another and is not any more has a name of its own: none is left out.
        """
        named = [param for name, param in zip(self._names, self.params, strict=True) if name]
        return [
            f"untied_{i}" if name is None and _whose(param, named) is None else name
            for i, (name, param) in enumerate(zip(self._names, self.params, strict=True))
        ]

    def __getstate__(self):
        """What is copied and pickled, with who is tied to whom: NumPy makes every view an array."""
        ties = {i: _whose(param, self.params[:i]) for i, param in enumerate(self.params)}
        return self.__dict__ | {"_ties": {i: tie for i, tie in ties.items() if tie is not None}}

    def __setstate__(self, state):
        ties = state.pop("_ties")
        self.__dict__.update(state)
        for i, (j, turned) in ties.items():
            view = self.params[j].T if turned else self.params[j]
            if checks.place(self.params[i]) != checks.place(view):
                self._put(i, view)

    def _put(self, i, array):
        """array in the place of params[i], in every layer that has it."""
        old = self.params[i]
        for params in (self.params, *(part.params for part in _all_parts(self.layers))):
            params[:] = [array if param is old else param for param in params]

    def save_params(self, file_name=None, vocabulary=None):
        """Write the weights, by default to `<Class>.safetensors`; see rnnfast.io."""
        weights = Weights(self._named_params(), type(self).__name__, self.sizes, vocabulary)
        save_weights(file_name or self._default_file(), weights)

    def load_params(self, file_name=None):
        """Copy weights into `params`; ValueError, and nothing changed, if they do not fit.

        The file may be one that the book's save_params pickled; see io.load_into.
        """
        load_into(file_name or self._default_file(), self.param_names, self.params)

    def _beside(self, xs, ys):
        """ys for whoever handed xs in: NumPy's, where xs is, else where the weights are."""
        return to_numpy(ys) if checks.is_numpy(xs) else ys

    def _named_params(self):
        named = zip(self.param_names, self.params, strict=True)
        return {name: param for name, param in named if name is not None}

    def _default_file(self):
        return type(self).__name__ + ".safetensors"


def _whose(param, others):
    """(j, turned): param is others[j] itself, or turned its transpose, by memory; else None."""
    where, turned = checks.place(param), checks.place(param.T)
    for j, other in enumerate(map(checks.place, others)):
        if other in (where, turned):
            return j, other != where
    return None


def _all_parts(layers):
    """The layers, and all that they are made of."""
    for layer in layers:
        yield layer
        yield from _all_parts(getattr(layer, "parts", ()))


def chosen(sizes, *names):
    return {name: sizes[name] for name in names}
