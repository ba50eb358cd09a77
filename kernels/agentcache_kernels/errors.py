"""What is raised before a launch that could not be right."""


class ArgumentError(ValueError):
    """An argument that the kernels cannot take: names it, its value, what was expected, and that nothing ran."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"{name} is {value}, expected {expected}; nothing was launched")
        self.name = name
