"""Sampling text from a language model, one id at a time (chapter 7).

Both functions share these parameters:

temperature : float
    Divides the scores of the next id; 0 takes the most probable id.
skip_ids : iterable of int, optional
    These ids are never drawn; the others share their probability.
top_k : int, optional
    Only the k most probable ids are drawn (Fan et al. 2018, https://arxiv.org/abs/1805.04833).
top_p : float, optional
    Only the smallest set of most probable ids whose probabilities add up to top_p is drawn, at
    least one id (Holtzman et al. 2019, https://arxiv.org/abs/1904.09751); applied after skip_ids,
    temperature and top_k.
stop_ids : iterable of int, optional
    Sampling ends after one of these ids.
rng : seed, numpy.random.Generator or None
    None draws from np.random, as the book does.

Recurrent layers are frozen (TimeLSTM.freeze) while ids are drawn, and unfrozen afterwards unless
they were frozen before. So a model cannot be trained while one of its streams is open. Wrong
arguments raise a TypeError or a ValueError that names them, before anything is drawn.

Defined in rnnfast.text.sampling.
"""

from rnnfast.text.sampling import generate, stream

__all__ = ["generate", "stream"]
