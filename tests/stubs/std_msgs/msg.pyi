class String:
    data: str
    def __init__(self, *, data: str = ...) -> None: ...

class Float32:
    data: float
    def __init__(self, *, data: float = ...) -> None: ...

class Bool:
    data: bool
    def __init__(self, *, data: bool = ...) -> None: ...
