"""Checkpoints: the whole state of a training run in one file.

A resumed run has the same losses, bit for bit, as a run without an interruption.
"""

import copy
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rnnfast.distributed.ranks import Ranks
from rnnfast.io import headers
from rnnfast.io.files import StrPath, path_text
from rnnfast.io.weights import (
    check_fits,
    copy_into,
    load_arrays,
    model_header,
    save_arrays,
    to_device,
    to_numpy,
)
from rnnfast.training.gradients import distinct

# Names of arrays begin with these
GROUPS = {"params", "optimizer", "state", "random", "order", "outer", "best"}


class Checkpointed:
    """The part of a trainer that saves and restores it.

    It needs `model`, `optimizer`, the numbers named in `kept`, and the position of the loop:
    `_progress` and `_restored` of BaseTrainer. With several ranks, `ranks`, rank 0 reads and writes
    files, which have the states of all samples.
    """

    # for JSON
    kept: tuple[str, ...] = ("current_epoch", "eval_epochs", "eval_interval", "max_iter", "seconds")
    kept += ("valid_list",)
    model: Any
    optimizer: Any
    ranks: Ranks | None
    _round_ends: Callable[[], bool]  # a method: whether all ranks have equal weights
    _velocity: list[Any] | None  # of the outer step of ranks
    _best: dict[str, Any] | None  # the parameters of the best epoch, of a fit with patience
    _now: float
    _progress: Any  # a dict of numbers, the position of the present or last fit; else None
    _restored: bool  # whether the next fit continues there

    @property
    def equal(self) -> bool:
        """Whether all ranks have equal weights: False within a round of local updates."""
        return self._round_ends()

    def clock(self) -> float:
        """Seconds since some moment; with several ranks those of rank 0, the same on all."""
        return time.monotonic() if self.ranks is None else self._now

    def save_checkpoint(self, path: StrPath, extra: Any = None, *, vocabulary: Any = None) -> None:
        """Save everything that further training depends on.

        A callback may call it.

        Parameters
        ----------
        path : path-like
            A safetensors file. It is replaced atomically: at any moment the file is complete.
        extra : optional
            A JSON value of the caller's, which `load_checkpoint` returns.
        vocabulary : optional
            One of rnnfast.data. The checkpoint of one of rnnfast's models is a weight file, too:
            `models.load_model` reads it, with its vocabulary.

        Raises
        ------
        OSError
            The file cannot be written; the old file is unchanged.
        TypeError
            `extra` is no JSON value, the optimiser is not one of rnnfast.optim, or the model has a
            state without the methods for it.
        RuntimeError
            Ranks are within a round of local updates, see `Sync`.

        Notes
        -----
        The file has the weights, the optimiser's state, the recurrent state, the counters of
        dropout, the state of np.random, and the position of `fit`. With several ranks all of them
        call it, and rank 0 writes. Any number of ranks can go on with the file.
        """
        if not self.equal:
            raise RuntimeError(
                "save_checkpoint: ranks have different weights within a round; see trainer.equal"
            )
        self._check_optimizer()
        arrays, header = self._model_state()
        if self.ranks is not None:
            arrays = self._of_all_ranks(self.ranks, arrays)
        arrays |= {f"params/{name}": param for name, param in self._named_params().items()}
        state = self.optimizer.state_dict()
        for name in self.optimizer.arrays:
            for i, array in enumerate(state.pop(name) or ()):
                arrays[f"optimizer/{name}/{i}"] = array
        _, keys, *position = np.random.get_state()
        arrays["random"] = keys
        if self._order is not None:
            arrays["order"] = self._order
        arrays |= {f"outer/{i}": array for i, array in enumerate(self._velocity or ())}
        arrays |= {f"best/{name}": array for name, array in (self._best or {}).items()}
        header |= {
            "trainer": type(self).__name__,
            "optimizer": [type(self.optimizer).__name__, state],
            "random": position,
            "progress": self._progress,
            **{name: getattr(self, name) for name in self.kept},
        }
        whole = {"checkpoint": header, "extra": extra}
        if hasattr(self.model, "sizes"):
            whole |= model_header(
                path_text(path), type(self.model).__name__, self.model.sizes, vocabulary
            )
        if self.ranks is None:
            save_arrays(path, arrays, whole)
        else:
            self.ranks.from_first(lambda: save_arrays(path, arrays, whole))

    def load_checkpoint(self, path: StrPath, *, optimizer: bool = True) -> Any:
        """Restore a trainer from a checkpoint.

        Parameters
        ----------
        path : path-like
            The file. Model and optimiser must be of the saved classes and sizes.
        optimizer : bool
            False keeps the trainer's own optimiser, of any class, as it is.

        Returns
        -------
        object
            The `extra` of `save_checkpoint`.

        Raises
        ------
        OSError
            The file cannot be read.
        ValueError
            The file does not fit; nothing is changed.
        TypeError
            As of `save_checkpoint`.

        Notes
        -----
        If a fit was in progress, the next `fit` with the same arguments continues there. Between
        two epochs it may be given other sizes of batches; an RnnlmTrainer then starts from a zero
        state. With several ranks all of them call it, and rank 0 reads.
        """
        if optimizer:
            self._check_optimizer()
        if self.ranks is None:
            arrays, whole = load_arrays(path)
        else:
            arrays, whole = self.ranks.from_first(lambda: load_arrays(path))
        if "checkpoint" not in whole:
            raise ValueError(f"{path}: not a checkpoint")
        try:
            self._take_over(path_text(path), arrays, whole["checkpoint"], optimizer)
        except headers.Wrong as error:
            raise ValueError(f"{path}: damaged checkpoint ({error})") from None
        return whole.get("extra")

    def _check_optimizer(self) -> None:
        """TypeError for an optimiser whose state cannot be saved."""
        if not hasattr(self.optimizer, "state_dict"):
            kind = type(self.optimizer).__name__
            raise TypeError(f"checkpoints: optimizer must be one of rnnfast.optim, got {kind}")

    def _take_over(
        self,
        path: str,
        arrays: dict[str, Any],
        header: dict[str, Any],
        with_optimizer: bool,
    ) -> None:
        """Check the whole checkpoint, then restore everything."""
        for name in ("eval_epochs", "valid_list"):  # older checkpoints do not say
            header.setdefault(name, [])
        optimizer, state = header["optimizer"]
        pairs = [("trainer", header["trainer"], type(self).__name__)]
        if with_optimizer:
            pairs.append(("optimiser", optimizer, type(self.optimizer).__name__))
        for what, saved, mine in pairs:
            if saved != mine:
                raise ValueError(f"{path}: a checkpoint of the {what} {saved}, not {mine}")
        groups: dict[str, dict[str, Any]] = {}
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = array
        if foreign := groups.keys() - GROUPS:
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
        evaluations = header.get("ppl_list", header.get("loss_list")) or ()
        if len(header["eval_epochs"]) > len(evaluations):
            raise headers.Wrong(f"eval_epochs must be of {len(evaluations)} evaluations at most")
        self._check_order(progress, arrays.get("order"))
        kept = {name: header[name] for name in self.kept}
        states, dropout = self._checked_model_state(path, groups.get("state", {}), header)
        velocity = self._checked_velocity(groups.get("outer", {}))
        params = self._named_params(), groups.get("params", {}), path
        check_fits(*params)
        best = groups.get("best")
        if best is not None:
            check_fits(params[0], best, f"{path}, the best epoch")
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
        self._order, self._velocity, self._best = arrays.get("order"), velocity, best
        self._progress, self._restored = progress, progress is not None

    _order: Any = None  # int64 (samples,), the order of an epoch; only Trainer has one

    def _check_order(self, progress: Any, order: Any) -> None:
        """Wrong unless the order of samples in a checkpoint fits this trainer."""
        if order is not None:
            raise headers.Wrong("there is an array order")

    def _checked_velocity(self, found: dict[str, Any]) -> list[Any] | None:
        """The velocity of the outer step in a checkpoint, one array per parameter, or None."""
        if not found:
            return None
        there = {name: (array.shape, array.dtype) for name, array in found.items()}
        params = enumerate(distinct(self.model.params))
        if there != {str(i): (param.shape, param.dtype) for i, param in params}:
            raise headers.Wrong("the arrays outer must be like the parameters")
        return [found[str(i)] for i in range(len(found))]

    def _optimizer_arrays(self, places: dict[str, Any]) -> dict[str, Any]:
        """The optimiser's arrays of a checkpoint in the form of its state, one per parameter."""
        params = distinct(self.model.params)
        expected = [(param.shape, self.optimizer.array_dtype(param)) for param in params]
        state: dict[str, Any] = {}
        names = self.optimizer.arrays
        for name in names:
            found = [places.pop(f"{name}/{i}", None) for i in range(len(params))]
            there = [(array.shape, array.dtype) for array in found if array is not None]
            if there not in ([], expected):
                raise headers.Wrong(f"the optimiser's {name} must be arrays like the parameters")
            state[name] = found if there else None
        if places or len({value is None for value in state.values()}) > 1:
            raise headers.Wrong(f"the optimiser's arrays must be {', '.join(names) or 'none'}")
        return state

    def _named_params(self) -> dict[str, Any]:
        """The parameters by name, shared ones once."""
        params = self.model.params
        names = getattr(self.model, "param_names", None) or map(str, range(len(params)))
        pairs = zip(names, params, strict=True)
        return {name: param for name, param in pairs if name is not None}

    def _model_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The recurrent state as arrays by name, and JSON with the counters of dropout."""
        needed = "get_state", "set_state", "recurrent_layers"
        if hasattr(self.model, "reset_state") and not all(hasattr(self.model, n) for n in needed):
            raise TypeError(
                "checkpoints: a model with reset_state() needs get_state(), set_state(states) and "
                "recurrent_layers, its stateful layers, too"
            )
        states = self.model.get_state() if hasattr(self.model, "get_state") else []
        arrays = {
            f"state/{i}/{k}": array
            for i, state in enumerate(states)
            for k, array in enumerate(state)
            if array is not None
        }
        dropout = [layer.mask_state() for layer in self._counting()]
        return arrays, {"recurrent": len(states), "dropout": dropout}

    def _of_all_ranks(self, ranks: Ranks, arrays: dict[str, Any]) -> dict[str, Any]:
        """The states of all samples of a batch, and the check that all ranks have equal weights."""
        params = map(to_numpy, distinct(self.model.params))
        sums = [zlib.crc32(np.ascontiguousarray(param).data) for param in params]
        ranks.check_same("save_checkpoint", {"the checksums of the weights": sums})
        return {name: ranks.gather_rows(array) for name, array in arrays.items()}

    def _rows(self, array: Any) -> Any:
        """The rows of a state that belong to this rank's samples."""
        return array if self.ranks is None else array[self.ranks.share(len(array)).rows]

    def _counting(self) -> list[Any]:
        """Dropout layers, also within layers: a seed and a number of masks determine the next."""
        found: list[Any] = []
        seen, owners = {id(self.model)}, [self.model]
        for owner in owners:  # grows: those of the model itself come first
            for value in vars(owner).values():
                for part in value if isinstance(value, (list, tuple)) else (value,):
                    counts = hasattr(part, "mask_state")
                    is_layer = hasattr(part, "forward") and hasattr(part, "__dict__")
                    if id(part) in seen or isinstance(part, type) or not (counts or is_layer):
                        continue
                    seen.add(id(part))
                    (found if counts else owners).append(part)
        return found

    def _checked_model_state(
        self, path: str, arrays: dict[str, Any], header: Mapping[str, Any]
    ) -> tuple[list[list[Any]], list[Any]]:
        """The states, a list per recurrent layer, and (step, key) of each dropout layer."""
        mine = self._model_state()[1]
        for what, saved, found in [
            ("recurrent", header["recurrent"], mine["recurrent"]),
            ("dropout", len(header["dropout"]), len(mine["dropout"])),
        ]:
            if saved != found:
                raise ValueError(f"{path}: {saved} {what} layers, the model has {found}")
        states: list[list[Any]] = []
        sizes: set[int] = set()
        for i in range(mine["recurrent"]):
            layer = self.model.recurrent_layers[i]
            state = [arrays.pop(f"{i}/{k}", None) for k in range(len(layer.states))]
            for array, width in zip(state, layer._widths, strict=True):
                if array is None:
                    continue
                if array.ndim != 2 or array.shape[1] != width:
                    raise ValueError(f"{path}: a state must be (N, {width}), found {array.shape}")
                if array.dtype != layer.Wh.dtype:
                    raise headers.Wrong(f"state/{i} must be {layer.Wh.dtype}, found {array.dtype}")
                sizes.add(len(array))
            states.append(state)
        if arrays or len(sizes) > 1:
            what = f"no {min(arrays)[:60]!r}" if arrays else f"of one N, found {sorted(sizes)}"
            raise headers.Wrong(f"states must be {what}")
        return states, [(step, key and tuple(key)) for step, key in header["dropout"]]

    def _set_model_state(self, states: list[list[Any]], dropout: list[Any]) -> None:
        """Set the recurrent state and the counters of dropout."""
        if hasattr(self.model, "reset_state"):
            self.model.reset_state()
        for i, state in enumerate(states):
            if any(array is not None for array in state):
                like = self.model.params[0]
                if self.ranks is not None:
                    state = [array if array is None else self._rows(array) for array in state]
                there = [None if array is None else to_device(array, like) for array in state]
                self.model.recurrent_layers[i].set_state(*there)
        for layer, (step, key) in zip(self._counting(), dropout, strict=True):
            layer.set_mask_state(step, key)
