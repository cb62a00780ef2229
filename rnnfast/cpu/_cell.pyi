from typing import final

@final
class Cache: ...

@final
class Params: ...

@final
class Cell: ...
