"""Recurrent layers from their sizes."""

from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from rnnfast.layers.initial import Initializer, create_recurrent


class Created:
    """The base of recurrent layers that `create` makes."""

    @classmethod
    def create(
        cls,
        D: int,
        H: int,
        *,
        rng: int | np.random.Generator | None = None,
        dtype: DTypeLike = "float32",
        device: str | None = None,
        recurrent: str = "normal",
        forget_bias: float = 0.0,
        peepholes: str | None = None,
        rounds: int | None = None,
        rank: int | None = None,
        proj_size: int | None = None,
        heads: int | None = None,
        **options: Any,
    ) -> Self:
        """Make a layer from its sizes, with the initial weights of the book.

        Parameters
        ----------
        D, H : int
            The width of the input and the number of units.
        rng : int or numpy.random.Generator, optional
            A seed or a generator. The default is `np.random`.
        dtype : {"float32", "float64"}
            The dtype of the weights.
        device : str, optional
            With "auto" (see `rnnfast.get_device`) the weights lie on the GPU if one is usable.
        recurrent : {"normal", "orthogonal"}
            How Wh is drawn. "orthogonal": the block (H, H) of each gate is an orthogonal matrix; a
            block (P, H) has orthonormal rows or columns.
        forget_bias : float
            The initial bias of the forget gate. LSTM, with or without a projection, and Mogrifier
            LSTM only.
        peepholes : {None, "diagonal", "full"}
            Draw Wp (3, H) or (3, H, H). LSTM only.
        rounds : int, optional
            The rounds of a Mogrifier LSTM, of which each has a matrix; default: 5.
        rank : int, optional
            The rank k of these matrices: Wm is (r, H, k) and Wr (r, k, D). Without it they are
            whole: Wm is (r, H, D).
        proj_size : int, optional
            The width P of h of an LSTM with a projection; default: H.
        heads : int, optional
            The heads of an sLSTM, which divide H; default: 1.
        **options
            Keywords of the constructor: stateful, nonlinearity, cell_clip, reset_after, z_keeps.

        Returns
        -------
        layer
            An instance of this class.

        Raises
        ------
        TypeError, ValueError
            For a wrong argument. No number has been drawn then.

        Notes
        -----
        Wx is normal / sqrt(D); Wh, Wp and Wproj are normal / sqrt(H), Wh (P, 4H) is normal /
        sqrt(P), (H, 4K) / sqrt(K); b is zero (Deep Learning from Scratch 2, chapter 6). Each matrix
        of Wm and Wr is normal / the root of the number of its inputs. The numbers are drawn in
        float64, in the order Wx, Wh, Wp or Wm, Wr or Wproj; of two directions, forward comes first.

        References
        ----------
        Orthogonal matrices: Saxe et al. 2013, https://arxiv.org/abs/1312.6120.
        A forget bias of 1: Jozefowicz et al. 2015, "An empirical exploration of recurrent network
        architectures".

        Examples
        --------
        >>> from rnnfast import GRU, TimeLSTM
        >>> TimeLSTM.create(100, 200, rng=0, stateful=True, device="cpu")
        TimeLSTM(D=100, H=200, stateful=True, float32, cpu)
        >>> lstm = TimeLSTM.create(3, 2, rng=0, recurrent="orthogonal", forget_bias=1.0)
        >>> [float(bias) for bias in lstm.params[2]]
        [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
        >>> GRU.create(3, 2, reset_after=True).params[2].shape
        (2, 6)
        """
        draw = Initializer(cls.__name__, rng, dtype, device)
        more = {"peepholes": peepholes, "rounds": rounds, "rank": rank, "proj_size": proj_size}
        more["heads"] = heads
        return create_recurrent(
            cls, cls, ("",), (D, H), draw, recurrent, forget_bias, more, options
        )
