from typing import final

import numpy as np

@final
class SoftmaxCache: ...

@final
class ScoreCache: ...

@final
class MixtureCache: ...

def affine_forward(x: np.ndarray, W: np.ndarray, b: np.ndarray | None) -> np.ndarray: ...
def affine_backward(
    dy: np.ndarray, x: np.ndarray, W: np.ndarray, dW: np.ndarray, db: np.ndarray | None
) -> np.ndarray: ...
def embedding_forward(ids: np.ndarray, W: np.ndarray) -> np.ndarray: ...
def embedding_backward(dout: np.ndarray, ids: np.ndarray, dW: np.ndarray) -> None: ...
def softmax_loss_forward(
    xs: np.ndarray, ts: np.ndarray, *, ignore_label: int = -1
) -> tuple[float, SoftmaxCache]: ...
def softmax_loss_backward(cache: SoftmaxCache, dout: float = 1.0) -> np.ndarray: ...
def affine_softmax_loss_forward(
    x: np.ndarray,
    W: np.ndarray,
    b: np.ndarray | None,
    ts: np.ndarray,
    *,
    ignore_label: int = -1,
    train: bool = True,
    spent: ScoreCache | None = None,
) -> tuple[float, ScoreCache | None]: ...
def affine_softmax_loss_backward(
    cache: ScoreCache, dW: np.ndarray, db: np.ndarray | None, dout: float = 1.0
) -> np.ndarray: ...
def mixture_softmax(
    hs: np.ndarray, prior: np.ndarray, W: np.ndarray, b: np.ndarray | None
) -> np.ndarray: ...
def mixture_softmax_loss_forward(
    hs: np.ndarray,
    prior: np.ndarray,
    W: np.ndarray,
    b: np.ndarray | None,
    ts: np.ndarray,
    *,
    ignore_label: int = -1,
    train: bool = True,
) -> tuple[float, MixtureCache | None]: ...
def mixture_softmax_loss_backward(
    cache: MixtureCache, dW: np.ndarray, db: np.ndarray | None, dout: float = 1.0
) -> tuple[np.ndarray, np.ndarray]: ...
def sum_of_squares(x: np.ndarray) -> float: ...
def scale(x: np.ndarray, factor: float) -> None: ...
def sgd(param: np.ndarray, grad: np.ndarray, lr: float) -> None: ...
def adam(
    param: np.ndarray,
    grad: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    rate: float,
    beta1: float,
    beta2: float,
) -> None: ...
def dropout_mask(
    shape: tuple[int, ...],
    ratio: float,
    key: tuple[int, int],
    step: int,
    dtype: np.dtype,
    first: int = 0,
) -> np.ndarray: ...
