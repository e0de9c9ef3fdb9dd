"""The errors that people read: what is wrong, and what to do about it."""


class LayerloopError(Exception):
    """A sentence for a person, with a hint; the command line prints both and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotFound(LayerloopError):
    """The thing named does not exist; every adapter translates its own "not found" into this one."""

    exit_code = 3


class Refused(LayerloopError):
    """The request is understood and not allowed: bad input, a wrong state, a missing role."""

    exit_code = 2


class Conflict(Refused):
    """Somebody else was first: a lost lease, a state that has moved on."""


class Corrupt(LayerloopError):
    """Stored bytes do not have the hash they are named by, or a file is not what it says it is."""

    exit_code = 4


class Unreachable(LayerloopError):
    """A server that a setting names does not answer."""

    exit_code = 5
