"""The queries that reading a call makes to the machine; kernel/system/host.py implements them."""

from typing import Protocol


class Machine(Protocol):
    """Queries to the machine; none of them changes anything."""

    def user_id(self, name: str) -> int | None:
        """The uid of a user, or None."""

    def group_id(self, name: str) -> int | None:
        """The gid of a group, or None."""

    def read_text(self, path: str) -> str:
        """A file's text. Raises OSError."""
