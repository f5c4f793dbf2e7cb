"""Exceptions, one for each status of libattn, by the same names; each is also Python's own where there is one."""

from __future__ import annotations

from typing import Dict, Type

__all__ = [
    "Error", "ATT_EMPTY", "ATT_AGAIN", "ATT_EINVAL", "ATT_ERANGE", "ATT_ENOTFINITE", "ATT_ECAPACITY", "ATT_EMAGNITUDE",
    "ATT_EBUSY", "ATT_ETIMEOUT", "ATT_ECLOSED", "ATT_EPROTOCOL", "ATT_EVERSION", "ATT_EPERM", "ATT_EIO", "ATT_ENOSPC",
    "ATT_ENOMEM", "ATT_ECORRUPT", "ATT_EEXIST", "ATT_ENOENT", "ATT_ELOCKED", "ATT_EREADONLY", "ATT_LOST", "ATT_EKERNEL",
    "ATT_EEXPIRED", "ATT_EFENCED", "ATT_ESHAPE",
]


class Error(Exception):
    """What all exceptions here have in common. `status` is the number in attn_status.h, `name` the constant's name."""

    status: int = -1

    @property
    def name(self) -> str:
        return type(self).__name__


class ATT_EMPTY(Error):
    """The row sees no token, or only masked ones: it has no output."""

    status = 1


class ATT_AGAIN(Error, BlockingIOError):
    """Not now."""

    status = 2


class ATT_EINVAL(Error, ValueError):
    """An argument makes no sense."""

    status = 3


class ATT_ERANGE(Error, IndexError):
    """An index is outside the matrix, or names a deleted token."""

    status = 4


class ATT_ENOTFINITE(Error, ValueError):
    """NaN or infinity where a finite number is needed."""

    status = 5


class ATT_ECAPACITY(Error):
    """No room for another token: start attnd with a larger --capacity."""

    status = 6


class ATT_EMAGNITUDE(Error, ValueError):
    """Scores would be too large for the precision."""

    status = 7


class ATT_EBUSY(Error):
    """Too much in flight, or too many clients."""

    status = 8


class ATT_ETIMEOUT(Error, TimeoutError):
    """No reply in time; the operation may still take effect."""

    status = 9


class ATT_ECLOSED(Error, ConnectionError):
    """The daemon has gone; what was in flight may or may not have taken effect."""

    status = 10


class ATT_EPROTOCOL(Error):
    """The other side broke the protocol."""

    status = 11


class ATT_EVERSION(Error):
    """Another protocol or format version."""

    status = 12


class ATT_EPERM(Error, PermissionError):
    """This user is not allowed."""

    status = 13


class ATT_EIO(Error, OSError):
    """A system call failed."""

    status = 14


class ATT_ENOSPC(Error, OSError):
    """The disk is full."""

    status = 15


class ATT_ENOMEM(Error, MemoryError):
    """Not enough memory."""

    status = 16


class ATT_ECORRUPT(Error):
    """Stored data does not check out."""

    status = 17


class ATT_EEXIST(Error, FileExistsError):
    """The directory holds something already."""

    status = 18


class ATT_ENOENT(Error, FileNotFoundError):
    """No such file, directory or state; no daemon at the socket."""

    status = 19


class ATT_ELOCKED(Error):
    """Another daemon serves this directory."""

    status = 20


class ATT_EREADONLY(Error):
    """Updates are refused, reads are served; the message says why."""

    status = 21


class ATT_LOST(Error):
    """That LSN was taken back by a crash before it was durable."""

    status = 22


class ATT_EKERNEL(Error):
    """The vector kernel computes wrong results on this processor."""

    status = 23


class ATT_EEXPIRED(Error):
    """The daemon does not know this session (any more)."""

    status = 24


class ATT_EFENCED(Error):
    """Another client has taken over this session."""

    status = 25


class ATT_ESHAPE(Error):
    """The daemon that came back serves a state of another shape."""

    status = 26


_by_status: Dict[int, Type[Error]] = {
    kind.status: kind for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, Error) and kind is not Error
}


def from_status(status: int, message: str = "") -> Error:
    """The exception of a status that is not ATT_OK."""
    kind = _by_status.get(status)
    if kind is None:
        error = Error(f"status {status}: {message}")
        error.status = status
        return error
    return kind(message or (kind.__doc__ or "").split("\n")[0])
