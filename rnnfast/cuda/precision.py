"""How far a recurrence in TF32 may be from the exact one, for whoever checks one."""

import math

LOST = 2.0**-10  # of an operand at most, where what does not fit is cut off; rounded, half of that


def tf32_tolerance(N, T, D, H):
    """What hs, dxs and gradients may be off by, as a share of 1 + their size.

    An operand, which lies anywhere between two powers of two, loses 0.36 LOST on average where it
    is cut off (none where it is rounded) and 0.22 by chance, and each term of a sum has two. The
    chances of K terms add up as sqrt(K). With weights as the book draws them, 1 / sqrt(D) and
    1 / sqrt(H), that makes a chance of 1 in the sums over D and H, and of sqrt(H / D) in dxs, which
    sums over H with weights for D. Of many sums the one that is off most is so by
    sqrt(2 log(twice their number)) times that. A gradient is two products away from the arguments.

    It is for smooth equations: at a kink (relu, cell_clip) a gradient may be another one.
    """
    average, chance = 2 * 0.36 * LOST, math.sqrt(2) * 0.22 * LOST
    sums, size = N * T * max(D, H), math.sqrt(max(1, H / D))
    return 2 * (average + chance * size * math.sqrt(2 * math.log(2 * sums)))
