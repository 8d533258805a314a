"""A worker that waits for requests: it connects to the driver, loads its rows, and answers until it is told to stop."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from models.exact.worker import wire
from models.exact.worker.answers import Failure, Rows
from models.exact.worker.blocks import Blocks
from models.exact.worker.devices import Device, Host
from models.exact.worker.loading import InputFailed

TOKEN_BYTES = 32
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 3600.0  # the driver may solve for long between passes; that it is gone is noticed much earlier
_HELLO = struct.Struct(f"!{TOKEN_BYTES}sII")
HELLO_BYTES = _HELLO.size


@dataclass(frozen=True)
class Address:
    """Where the driver listens, and the secret that it lets workers in for."""

    host: str
    port: int
    token: bytes = field(repr=False)


@dataclass(frozen=True)
class Worker:
    """Which worker of how many."""

    number: int
    count: int


def hello(token: bytes, worker: Worker) -> bytes:
    """The first bytes of a connection: the token, then who is calling."""
    return _HELLO.pack(token, worker.number, worker.count)


def read_hello(data: bytes | bytearray) -> tuple[bytes, Worker]:
    """Inverse of `hello`."""
    token, *worker = _HELLO.unpack(data)
    return token, Worker(*worker)


def serve(
    address: Address,
    worker: Worker,
    load: Callable[[], Blocks],
    *,
    device: Callable[[], Device] = Host,
    patience: float = IDLE_SECONDS,
) -> None:
    """Answer the driver's requests, (kernel, arguments), with rows loaded once, until it sends None.

    Args:
        device: makes the place where the rows lie.

    Raises:
        InputFailed: Spark failed to compute the rows. The driver is told before it asks.
        OSError: the driver cannot be reached, went away, or asked nothing for `patience` seconds. Spark reports it.
    """
    with socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS) as driver:
        wire.keep_alive(driver)
        driver.sendall(hello(address.token, worker))
        try:
            rows = Rows(load, device)
        except InputFailed as error:
            wire.send(driver, wire.pack(Failure.of(error)))
            raise
        while (request := wire.receive(driver, patience)) is not None:
            kernel, arguments = request
            wire.send(driver, wire.pack(rows.answer(kernel, arguments)))
