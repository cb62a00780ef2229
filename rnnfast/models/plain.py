"""Copies of language models without their regularisation."""

import copy
from itertools import chain
from typing import Any, TypeVar

from rnnfast.models.outputs import inner_drop, loss_of

M = TypeVar("M")


def unregularized(model: M) -> M:
    """Copy a model without dropout and penalties; see `LanguageModelBase.unregularized`."""
    plain: Any = copy.deepcopy(model)
    identities = *plain.drop_layers, *plain.penalty_layers
    plain.layers = [layer for layer in plain.layers if layer not in identities]
    last = plain.layers[-1]
    plain.h_drops, plain.Wh_drops, plain.word_drop = [], [], None
    for drop in (*inner_drop(last), *chain.from_iterable(plain.step_drops.values())):
        drop.train_flg = False  # zoneout then takes its probabilities
    plain.drop_layers, plain.penalty_layers = [], []
    count = sum(len(layer.params) for layer in plain.layers)  # those of `aside` are the last
    plain.params, plain.grads = plain.params[:count], plain.grads[:count]
    plain._names = plain._names[:count]
    plain.past, plain.adversary, plain.aside = None, None, []
    plain.loss_layer = loss_of(last, {}, last.device)
    copied: M = plain
    return copied
