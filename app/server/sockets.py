"""Low-level socket operations by file descriptor, which asyncio does not offer."""

import fcntl
import os
import socket
import struct
import termios
from contextlib import suppress

UNSENT_BYTES = 128 << 10
TCP_CLOSE = 7  # from Linux's include/net/tcp_states.h


def bound_unsent_bytes(descriptor: int) -> None:
    """Limit how much unsent data the kernel buffers, on all connections of a listener.

    By default it buffers up to 4 MiB per client, charged to the container's memory, which looks
    to us as if it were sent. Clients that read are not slowed down.
    """
    with socket.socket(fileno=os.dup(descriptor)) as listener, suppress(OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def accept_all(descriptor: int) -> list[socket.socket]:
    """Accept all pending connections of a listener."""
    found = []
    with socket.socket(fileno=os.dup(descriptor)) as listener, suppress(OSError):
        listener.setblocking(False)
        while True:
            found.append(listener.accept()[0])
    return found


def unread_bytes(descriptor: int) -> int:
    """How many received bytes of a connection have not been read yet."""
    try:
        found = fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0))
    except OSError:
        return 0
    count: int = struct.unpack("i", found)[0]
    return count


def is_reset(descriptor: int) -> bool:
    """Whether the peer has reset a connection, which is otherwise noticed only when reading."""
    with socket.socket(fileno=os.dup(descriptor)) as connection, suppress(OSError, AttributeError):
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return state[0] == TCP_CLOSE
    return False
