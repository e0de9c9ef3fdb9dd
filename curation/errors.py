"""Errors for users: a message that states the problem, and a hint that says what to do."""


class LayerloopError(Exception):
    """An error with a message and a hint; the command line prints both, exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotFound(LayerloopError):
    """The named object does not exist; every adapter translates its own "not found" to this."""

    exit_code = 3


class Refused(LayerloopError):
    """The request is not allowed: bad input, a wrong state or a missing role."""

    exit_code = 2


class Conflict(Refused):
    """Another process or person was first: a lost lease, or a state that has changed."""


class TakenDown(Refused):
    """The object was removed for ever by a takedown; a notice in its store says so."""


class Corrupt(LayerloopError):
    """Stored bytes do not match the hash that names them, or a file does not match its format."""

    exit_code = 4


class Unreachable(LayerloopError):
    """A server that is named by a setting does not answer, or cannot work now."""

    exit_code = 5
