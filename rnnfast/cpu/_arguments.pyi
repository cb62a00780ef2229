from typing import final

from typing_extensions import disjoint_base

@disjoint_base
class Arguments: ...

@final
class Params: ...

@final
class Packed: ...
