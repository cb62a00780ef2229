"""Instruction sets, with all, some or none of their instructions for 16 and 8 bits."""

from contextlib import contextmanager

from rnnfast.cpu import _runtime

USABLE = _runtime.extensions()
WITHOUT_TILES = tuple(name for name in USABLE if not name.startswith("amx"))
WAYS = [(simd, ()) for simd in _runtime.simds()]
WAYS += [(simd, USABLE) for simd in _runtime.simds() if simd != "portable" and USABLE]
WAYS += [("avx512", WITHOUT_TILES)] if WITHOUT_TILES != USABLE else []
WAYS += [("neon", ("neon_dot",))] if "neon_i8mm" in USABLE else []  # as on the first of Apple's


@contextmanager
def use(simd, extensions):
    """One of WAYS for a block."""
    before = _runtime.simd(), _runtime.extensions()
    _runtime.set_simd(simd)
    _runtime.set_extensions(extensions)
    try:
        yield
    finally:
        _runtime.set_simd(before[0])
        _runtime.set_extensions(before[1])
