"""x W + b and its gradients."""

from rnnfast.cuda import what_runs
from rnnfast.cuda.op_arguments import check_affine, give, matrix, writable, write


def affine_forward(x, W, b):
    gpu = what_runs()
    check_affine(x, W, b)
    x2, W2 = gpu.to_device(x), gpu.to_device(W)
    y = gpu.xp.empty((x.shape[0], W.shape[1]), W2.dtype)
    multiply(gpu, x2, W2, y)
    if b is not None:
        y += gpu.to_device(b)
    return give(gpu, y, x, W)


def affine_backward(dy, x, W, dW, db):
    gpu = what_runs()
    check_affine(x, W, None)
    matrix("affine: dy", dy, W.dtype, (x.shape[0], W.shape[1]))
    writable("affine: dW", dW, W.dtype, W.shape)
    if db is not None:
        writable("affine: db", db, W.dtype, W.shape[1:])
    dy2 = gpu.to_device(dy)
    dx = affine_back(gpu, dy2, gpu.to_device(x), gpu.to_device(W), dW, db)
    return give(gpu, dx, dy, W)


def affine_back(gpu, dy, x, W, dW, db, of_x=None, of_W=None):
    """Gradients of x W + b where all but dW and db are on the GPU.

    of_x, of_W: copies of x and W, see runtime.matmul.
    """
    dx = gpu.xp.empty(x.shape, x.dtype)
    grad = gpu.xp.empty(W.shape, W.dtype)
    multiply(gpu, dy, W.T, dx, of_b=of_W)
    multiply(gpu, x.T, dy, grad, of_x)
    write(gpu, dW, grad)
    if db is not None:
        write(gpu, db, dy.sum(axis=0))
    return dx


def multiply(gpu, a, b, out, of_a=None, of_b=None):
    if a.shape[1] == 0:
        out[...] = 0
    elif out.size:
        gpu.matmul(a, b, out, of_a, of_b)
