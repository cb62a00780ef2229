"""x W + b and its gradients."""

from rnnfast.cuda import what_runs
from rnnfast.cuda.op_arguments import check_affine, give, matrix, target, writable, write


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
    grad = target(gpu, dW, x, dy, W, turned=True)
    multiply(gpu, dy, W.T, dx, of_b=of_W)
    multiply(gpu, x.T, dy, grad, of_x)
    if db is not None:
        total = target(gpu, db, dy)
        add_up(gpu, dy, total)
        write(gpu, db, total)
    write(gpu, dW, grad)
    return dx


def add_up(gpu, x, out):
    """The sum of all rows of x, into out."""
    if not x.size or not x.flags.c_contiguous:
        x.sum(axis=0, out=out)
    else:
        product, left = gpu.bind_sum(x, out)
        product(left, x, out)


def multiply(gpu, a, b, out, of_a=None, of_b=None):
    if a.shape[1] == 0:
        out[...] = 0
    elif out.size:
        gpu.matmul(a, b, out, of_a, of_b)
