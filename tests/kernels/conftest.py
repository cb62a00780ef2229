"""What several tests of kernels run with."""

import pytest
from ways import WAYS, use

import rnnfast
from rnnfast import kernels


@pytest.fixture(params=WAYS, ids=lambda way: "-".join((way[0], *way[1])))
def way(request):
    """An instruction set with all, some or none of its instructions for fewer bits."""
    with use(*request.param):
        yield request.param


@pytest.fixture
def medium():
    """Products in bfloat16."""
    rnnfast.set_float32_matmul_precision("medium")
    yield
    rnnfast.set_float32_matmul_precision("highest")


@pytest.fixture
def threads():
    """Sets the number of threads."""
    before = kernels.get_num_threads()
    yield kernels.set_num_threads
    kernels.set_num_threads(before)
