"""The socket that an agent listens on."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Optional, Union

#: The variable in which a proxy that starts an agent gives it its socket.
SOCKET_VARIABLE = "PORTCULLIS_AGENT_SOCKET"

#: Owner and group may connect.
_MODE = 0o660
_BACKLOG = 128

StrPath = Union[str, "os.PathLike[str]"]


def socket_from_env() -> Optional[str]:
    """The path that the environment gives; ``None`` when it gives none."""
    return os.environ.get(SOCKET_VARIABLE) or None


def bind_socket(path: StrPath) -> socket.socket:
    """Listens at this path, with mode 0660. A socket that a dead process left
    there is replaced. The directory has to exist.

    :raises OSError: EADDRINUSE when somebody listens there, EEXIST when
        something else than a socket is there, and what binding ends with.
    """
    path = os.fspath(path)
    _refuse_if_taken(path)
    # Bound under another name and then renamed, so that nobody can connect
    # before the mode is set, and a stale socket is replaced at once.
    folder, name = os.path.split(path)
    beside = os.path.join(folder, f".{name}")
    try:
        os.unlink(beside)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(beside)
        os.chmod(beside, _MODE)
        listener.listen(_BACKLOG)
        os.rename(beside, path)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen at {path}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def _refuse_if_taken(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, f"{path} is there and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return
    raise OSError(errno.EADDRINUSE, f"another process listens on {path}")
