"""What is asked of the kernel of sockets, by their descriptors: asyncio's own ask for less."""

import fcntl
import os
import socket
import struct
import termios
from contextlib import suppress

UNSENT_BYTES = 128 << 10
TCP_CLOSE = 7  # from Linux's include/net/tcp_states.h


def bound_unsent_bytes(descriptor: int) -> None:
    """Let the kernel hold little of what clients do not read, on all connections of a listener.

    By default it takes 4 MiB of each client's answers, of the container's memory, and we take
    them for sent. A client that reads is not slowed down.
    """
    with socket.socket(fileno=os.dup(descriptor)) as listener, suppress(OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def accept_all(descriptor: int) -> list[socket.socket]:
    """The connections that wait at a listener."""
    found = []
    with socket.socket(fileno=os.dup(descriptor)) as listener, suppress(OSError):
        listener.setblocking(False)
        while True:
            found.append(listener.accept()[0])
    return found


def unread_bytes(descriptor: int) -> int:
    """How many bytes of a connection the kernel holds for us."""
    try:
        found = fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0))
    except OSError:
        return 0
    count: int = struct.unpack("i", found)[0]
    return count


def is_reset(descriptor: int) -> bool:
    """Whether the peer has reset a connection, which nobody hears who does not read it."""
    with socket.socket(fileno=os.dup(descriptor)) as connection, suppress(OSError, AttributeError):
        state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return state[0] == TCP_CLOSE
    return False
