from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, final

from typing_extensions import disjoint_base

def overlap(grads: Sequence[Any], reads: tuple[Any, ...]) -> bool: ...
def signature(what: tuple, kind: type, groups: tuple) -> tuple | None: ...
def present(
    groups: tuple, starts: tuple, instead: tuple, move: Callable[[Any], Any]
) -> list[Any]: ...
def described(work: list[Any], start: int, ahead: int, count: int) -> bytes | None: ...
def run(work: list[Callable[[int], object]], start: int, ahead: int, count: int) -> None: ...
def multiply(work: list[tuple[Callable[[Any, Any, Any], Any], Any, Any, Any]]) -> None: ...

@disjoint_base
class Kernel:
    label: str
    most: int
    @property
    def threads(self) -> int: ...
    @property
    def shared(self) -> int: ...
    def __init__(
        self,
        function: int,
        kernel: int,
        cooperative: bool,
        parameters: Iterable[tuple[int, str]],
        threads: int,
        shared: int,
        stream: Callable[[], Any],
        done: Callable[[str], object],
        label: str,
    ) -> None: ...
    def __call__(self, blocks: int, *args: Any) -> None: ...
    def refuse(self, blocks: int) -> NoReturn: ...
    def fail(self, blocks: int, status: int) -> NoReturn: ...

@final
class Blas:
    def __init__(
        self,
        gemm: int,
        geam: int,
        set_stream: int,
        handle: Callable[[], int],
        stream: Callable[[], Any],
        error: Callable[[int], BaseException],
    ) -> None: ...
    def move(
        self,
        turned: bool,
        rows: int,
        columns: int,
        x: int,
        step: int,
        out: int,
        step_out: int,
    ) -> None: ...

@final
class Product:
    def __init__(
        self,
        blas: Blas,
        ways: tuple[int, int],
        shape: tuple[int, int, int],
        steps: tuple[int, int, int],
        scalars: tuple[int, int, int, int],
        offsets: tuple[int, int, int],
    ) -> None: ...
    def __call__(self, a: Any, b: Any, out: Any) -> Any: ...

@final
class StepLaunch:
    def __init__(self, kernel: Kernel, of_t: int, blocks: int, *args: Any) -> None: ...
    def __call__(self, t: int) -> None: ...

@final
class StepProduct:
    def __init__(
        self,
        product: Product,
        arrays: tuple[Any, Any, Any],
        steps: tuple[int, int, int],
    ) -> None: ...
    def __call__(self, t: int) -> None: ...
