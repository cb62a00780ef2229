"""What one unit of a GRU does in one step, wherever r comes: device functions for both conventions.

The equations are those of rnnfast/reference/gru.py; z is how much is renewed, also where z_keeps.
"""

import numpy as np

from rnnfast.cuda.activations import activations


def make_equations(gpu, dtype, z_keeps):
    """Device functions update, renew, renew_back, reset_back."""
    sigmoid, _ = activations(gpu, dtype)
    one = np.dtype(dtype).type(1)

    @gpu.device
    def update(a):
        """z from its pre-activation."""
        if z_keeps:
            a = -a
        return sigmoid(a)

    @gpu.device
    def renew(z, h, h_hat):
        """The new h."""
        return (one - z) * h + z * h_hat

    @gpu.device
    def renew_back(dh, z, h, h_hat):
        """dA_z, dA_c and what goes straight to dh of the step before."""
        dz = dh * (h_hat - h) * z * (one - z)
        if z_keeps:
            dz = -dz
        return dz, dh * z * (one - h_hat * h_hat), dh * (one - z)

    @gpu.device
    def reset_back(dr, r):
        """dA_r."""
        return dr * r * (one - r)

    return update, renew, renew_back, reset_back
