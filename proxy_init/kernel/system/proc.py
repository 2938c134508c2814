"""Reading what the kernel tells in /proc."""


def read(path: str) -> str:
    """The text of a file below /proc. Raises OSError."""
    with open(path) as file:  # noqa: PTH123  loading pathlib takes 5 ms
        return file.read()
