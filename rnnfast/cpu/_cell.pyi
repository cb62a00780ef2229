from typing import final

from rnnfast.cpu._arguments import Arguments

@final
class Cache: ...

@final
class Cell(Arguments): ...
