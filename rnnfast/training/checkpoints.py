"""Checkpoints: all that a training run depends on, in one file.

A run that is resumed from a checkpoint has the losses, bit for bit, of one that was never
interrupted.
"""

import copy

import numpy as np

from rnnfast import checks
from rnnfast.io import headers
from rnnfast.io.weights import (
    check_fits,
    copy_into,
    load_arrays,
    model_header,
    save_arrays,
    to_device,
)


class Checkpointed:
    """The part of a trainer that saves and restores it.

    It needs `model`, `optimizer`, the numbers named in `kept`, and where the loop is: `_progress`
    and `_restored` of BaseTrainer.
    """

    kept = ("current_epoch", "eval_interval", "max_iter", "seconds")  # attributes for JSON

    def save_checkpoint(self, path, extra=None, *, vocabulary=None):
        """Write all that further training depends on to `path`, a safetensors file.

        Weights, the optimiser's state, the recurrent state, dropout's counters, np.random's
        state, and where `fit` is; a callback may call it. extra: a JSON object of the caller's.
        A checkpoint of one of rnnfast's models is a weight file, too: models.load_model reads it,
        with its vocabulary (one of rnnfast.data). The file is replaced at once when it is complete:
        at any moment there is a whole one. OSError, with the old file untouched, if it cannot be
        written.
        """
        arrays, header = self._model_state()
        arrays |= {f"params/{name}": param for name, param in self._named_params().items()}
        state = self.optimizer.state_dict()
        for name in self.optimizer.arrays:
            for i, array in enumerate(state.pop(name) or ()):
                arrays[f"optimizer/{name}/{i}"] = array
        _, keys, *position = np.random.get_state()
        arrays["random"] = keys
        if self._order is not None:
            arrays["order"] = self._order
        header |= {
            "trainer": type(self).__name__,
            "optimizer": [type(self.optimizer).__name__, state],
            "random": position,
            "progress": self._progress,
            **{name: getattr(self, name) for name in self.kept},
        }
        whole = {"checkpoint": header, "extra": extra}
        if hasattr(self.model, "sizes"):
            whole |= model_header(path, type(self.model).__name__, self.model.sizes, vocabulary)
        save_arrays(path, arrays, whole)

    def load_checkpoint(self, path, *, optimizer=True):
        """Take over what `save_checkpoint` wrote -> its `extra`.

        Model and optimiser have to be like those that were saved, by class and sizes. With
        optimizer=False the trainer's own stays as it is, of whatever class. If a fit was under
        way, the next `fit`, called with the same arguments, goes on where that was; where an epoch
        begins it may be given other batches (an RnnlmTrainer's state is zero then). OSError if the
        file cannot be read; ValueError, and nothing changed, if it does not fit.
        """
        arrays, whole = load_arrays(path)
        if "checkpoint" not in whole:
            raise ValueError(f"{path}: not a checkpoint")
        try:
            self._take_over(path, arrays, whole["checkpoint"], optimizer)
        except headers.Wrong as error:
            raise ValueError(f"{path}: damaged checkpoint ({error})") from None
        return whole.get("extra")

    def _take_over(self, path, arrays, header, with_optimizer):
        optimizer, state = header["optimizer"]
        pairs = [("trainer", header["trainer"], type(self).__name__)]
        if with_optimizer:
            pairs.append(("optimiser", optimizer, type(self.optimizer).__name__))
        for what, saved, mine in pairs:
            if saved != mine:
                raise ValueError(f"{path}: a checkpoint of the {what} {saved}, not {mine}")
        groups = {}
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = array
        if foreign := groups.keys() - {"params", "optimizer", "state", "random", "order"}:
            raise headers.Wrong(f"there are arrays for {', '.join(sorted(foreign))[:60]}")
        keys = arrays.get("random")
        if keys is None or (keys.dtype, keys.shape) != (np.uint32, (624,)):
            raise headers.Wrong("the array random must be uint32 (624,)")
        random = ("MT19937", keys, *header["random"])
        progress = header["progress"]
        for name in self.kept:
            unset = name in header and header[name] is None and name not in Checkpointed.kept
            if name not in header or (unset and progress is not None):
                raise headers.Wrong(f"checkpoint.{name} is missing")
        self._check_order(progress, arrays.get("order"))
        kept = {name: header[name] for name in self.kept}
        states, dropout = self._checked_model_state(path, groups.get("state", {}), header)
        params = self._named_params(), groups.get("params", {}), path
        check_fits(*params)
        if with_optimizer:
            state |= self._optimizer_arrays(groups.get("optimizer", {}))
            try:
                copy.copy(self.optimizer).load_state_dict(state)
            except ValueError as error:
                raise headers.Wrong(f"checkpoint.optimizer: {error}") from None

        copy_into(*params)  # the first to change anything
        if with_optimizer:
            self.optimizer.load_state_dict(state)
        self._set_model_state(states, dropout)
        np.random.set_state(random)
        for name, value in kept.items():
            setattr(self, name, value)
        self._order = arrays.get("order")
        self._progress, self._restored = progress, progress is not None

    _order = None  # of the samples of an epoch; Trainer's

    def _check_order(self, progress, order):
        """Wrong unless a checkpoint's order of samples is this trainer's."""
        if order is not None:
            raise headers.Wrong("there is an array order")

    def _optimizer_arrays(self, places):
        """The optimiser's arrays of a checkpoint as its state has them, one for each parameter."""
        params = {}  # each once, as the optimiser knows them
        for param in self.model.params:
            params.setdefault(frozenset(map(checks.place, (param, param.T))), param)
        expected = [(param.shape, param.dtype) for param in params.values()]
        state, names = {}, self.optimizer.arrays
        for name in names:
            found = [places.pop(f"{name}/{i}", None) for i in range(len(params))]
            there = [(array.shape, array.dtype) for array in found if array is not None]
            if there not in ([], expected):
                raise headers.Wrong(f"the optimiser's {name} must be arrays like the parameters")
            state[name] = found if there else None
        if places or len({value is None for value in state.values()}) > 1:
            raise headers.Wrong(f"the optimiser's arrays must be {', '.join(names) or 'none'}")
        return state

    def _named_params(self):
        params = self.model.params
        names = getattr(self.model, "param_names", None) or map(str, range(len(params)))
        pairs = zip(names, params, strict=True)
        return {name: param for name, param in pairs if name is not None}

    def _model_state(self):
        """The recurrent state and dropout's counters, as arrays by name and JSON."""
        if hasattr(self.model, "reset_state") and not hasattr(self.model, "get_state"):
            raise TypeError("checkpoints: a model with reset_state() needs get_state(), too")
        states = self.model.get_state() if hasattr(self.model, "get_state") else []
        arrays = {
            f"state/{i}/{k}": array
            for i, state in enumerate(states)
            for k, array in enumerate(state)
            if array is not None
        }
        dropout = [[layer.step, getattr(layer, "_key", None)] for layer in self._counting()]
        return arrays, {"recurrent": len(states), "dropout": dropout}

    def _counting(self):
        """Dropout layers: their masks follow from a seed and the number of those before."""
        found = {}
        for value in vars(self.model).values():
            for layer in value if isinstance(value, (list, tuple)) else (value,):
                if hasattr(layer, "step") and hasattr(layer, "dropout_ratio"):
                    found[id(layer)] = layer
        return list(found.values())

    def _checked_model_state(self, path, arrays, header):
        """-> the states, a list for each recurrent layer, and (step, key) of each dropout layer."""
        mine = self._model_state()[1]
        for what, saved, found in [
            ("recurrent", header["recurrent"], mine["recurrent"]),
            ("dropout", len(header["dropout"]), len(mine["dropout"])),
        ]:
            if saved != found:
                raise ValueError(f"{path}: {saved} {what} layers, the model has {found}")
        states, sizes = [], set()
        for i in range(mine["recurrent"]):
            layer = self.model.recurrent_layers[i]
            H, names = layer.Wh.shape[0], [f"{i}/{k}" for k in range(len(layer.states))]
            state = [arrays.pop(name, None) for name in names]
            for array in state:
                if array is None:
                    continue
                if array.ndim != 2 or array.shape[1] != H:
                    raise ValueError(f"{path}: a state must be (N, {H}), found {array.shape}")
                if array.dtype != layer.Wh.dtype:
                    raise headers.Wrong(f"state/{i} must be {layer.Wh.dtype}, found {array.dtype}")
                sizes.add(len(array))
            states.append(state)
        if arrays or len(sizes) > 1:
            what = f"no {min(arrays)[:60]!r}" if arrays else f"of one N, found {sorted(sizes)}"
            raise headers.Wrong(f"states must be {what}")
        return states, [(step, key and tuple(key)) for step, key in header["dropout"]]

    def _set_model_state(self, states, dropout):
        if hasattr(self.model, "reset_state"):
            self.model.reset_state()
        for i, state in enumerate(states):
            if any(array is not None for array in state):
                like = self.model.params[0]
                there = [None if array is None else to_device(array, like) for array in state]
                self.model.recurrent_layers[i].set_state(*there)
        for layer, (step, key) in zip(self._counting(), dropout, strict=True):
            layer.step = step
            if hasattr(layer, "_key"):
                layer._key = key
