"""Messages on a socket: pickled, with the arrays beside the pickle as they lie in memory (protocol 5), each part with its length.

Only ends that know the token of a search get as far as a message, so that pickles of strangers are never read.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any

STALL_SECONDS = 60.0  # the longest silence inside a message
_COUNT = struct.Struct("!I")
Part = bytes | memoryview


class Closed(ConnectionError):
    """The other end went away."""


def pack(message: Any) -> list[Part]:
    """The parts of a message; arrays are not copied, so send them before they change."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts: list[Part] = [pickled, *(buffer.raw() for buffer in buffers)]
    lengths = [part.nbytes if isinstance(part, memoryview) else len(part) for part in parts]
    return [_COUNT.pack(len(parts)) + struct.pack(f"!{len(parts)}Q", *lengths), *parts]


def unpack(packed: bytes | bytearray) -> Any:
    """The message whose parts, one after the other, are `packed`."""
    view = memoryview(packed)
    (count,) = _COUNT.unpack_from(view)
    lengths = struct.unpack_from(f"!{count}Q", view, _COUNT.size)
    start, parts = _COUNT.size + 8 * count, []
    for length in lengths:
        # Arrays are built on these bytes: a copy of their own can be written to, and lets the others go.
        parts.append(bytearray(view[start : start + length]))
        start += length
    return pickle.loads(parts[0], buffers=parts[1:])


def send(end: socket.socket, parts: Sequence[Part]) -> None:
    """Send a packed message.

    Raises:
        OSError: the other end went away, or takes nothing for a minute.
    """
    end.settimeout(STALL_SECONDS)
    for part in parts:
        end.sendall(part)


def receive(end: socket.socket, patience: float) -> Any:
    """The next message, which may begin up to `patience` seconds from now.

    Raises:
        Closed: the other end went away.
        OSError: other trouble of the connection; TimeoutError is one.
    """
    end.settimeout(patience)
    head = read(end, _COUNT.size)
    end.settimeout(STALL_SECONDS)
    (count,) = _COUNT.unpack(head)
    lengths = struct.unpack(f"!{count}Q", read(end, 8 * count))
    parts = [read(end, length) for length in lengths]
    return pickle.loads(parts[0], buffers=parts[1:])


def read(end: socket.socket, length: int) -> bytearray:
    """Exactly `length` bytes."""
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        got = end.recv_into(view[done:])
        if not got:
            raise Closed("the other end closed the connection")
        done += got
    return data


def keep_alive(end: socket.socket) -> None:
    """Notice within a minute that the other machine is gone, even while nothing is sent; send small messages at once."""
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 60_000)):
        if hasattr(socket, name):  # not on every system
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
