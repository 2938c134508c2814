"""What the configuration asks the machine: users, groups and files. Changes nothing."""

from _stat import S_ISREG

from ...light import os

MOST_BYTES = 16 * 1024 * 1024


class Host:
    """The machine that the program runs on, as `machine.Machine` has it."""

    def user_id(self, name: str) -> int | None:
        """The uid of a user of this container, or None."""
        import pwd

        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            return None

    def group_id(self, name: str) -> int | None:
        """The gid of a group of this container, or None."""
        import grp

        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            return None

    def read_text(self, path: str) -> str:
        """The text of a regular file of at most 16 MiB. Raises OSError."""
        # O_NONBLOCK: a pipe in the file's place must not make us wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(0, "not a regular file")
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise OSError(0, "larger than 16 MiB")
        return data.decode("utf-8", "surrogateescape")
