"""Where the workers of a search meet: the driver listens, workers connect, and each round is one message to all and one from each.

Spark's own `BarrierTaskContext.barrier` and `allGather` take about a second a call, whatever the payload; a round here takes
about a millisecond.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any, cast

from models.exact.worker import wire
from models.exact.worker.peer import HELLO_BYTES, TOKEN_BYTES, Address, Worker, read_hello

HELLO_SECONDS = 5.0  # a stranger who connects and says nothing is let go
ROUND_SECONDS = 3600.0  # a worker that is gone is noticed much earlier
_LOOK_SECONDS = 0.2
log = logging.getLogger(__name__)


class Missing(Exception):
    """Not all workers connected in time."""


class Lost(Exception):
    """A worker went away, or did not answer in time."""


class Rendezvous:
    """Listens from the start; `gather` the workers, then `exchange` messages with them.

    Args:
        bind: host or address to listen on.
        host: name or address by which workers reach it.
        port: 0 for any.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(self, bind: str, host: str, port: int = 0) -> None:
        family, *_, where = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self._server = socket.create_server(cast("tuple[str, int]", where[:2]), family=family, backlog=1024)
        self._server.setblocking(False)
        self.address = Address(host, self._server.getsockname()[1], secrets.token_bytes(TOKEN_BYTES))
        self._strangers: dict[socket.socket, tuple[float, bytearray]] = {}
        self._peers: dict[int, tuple[Worker, socket.socket]] = {}

    @property
    def count(self) -> int:
        """Workers that are connected."""
        return len(self._peers)

    def gather(self, seconds: float, coming: Callable[[], bool]) -> None:
        """Wait until all workers are connected.

        Args:
            seconds: how long to wait.
            coming: asked while none is connected. The time starts anew while it is true: Spark still computes what comes
                before the workers. May raise to end the waiting.

        Raises:
            Missing: not all came in time.
        """
        deadline = time.monotonic() + seconds
        while not self._complete():
            self._look(_LOOK_SECONDS)
            if self._complete():
                return
            if coming() and not self._peers:
                deadline = time.monotonic() + seconds
            if time.monotonic() > deadline:
                expected = next((str(worker.count) for worker, _ in self._peers.values()), "all")
                raise Missing(
                    f"{len(self._peers)} of {expected} workers connected to {self.address.host}:{self.address.port} within"
                    f" {seconds:g} s"
                )

    def exchange(self, message: Any, seconds: float = ROUND_SECONDS) -> list[Any]:
        """Send a message to all workers; their replies in the order of their numbers.

        Raises:
            Lost: a worker went away, or not all answered in time. The others are let go: their round is lost with it.
        """
        deadline = time.monotonic() + seconds
        ends = {end: number for number, (_, end) in self._peers.items()}
        replies: dict[int, Any] = {}
        with selectors.DefaultSelector() as selector:
            for end in ends:
                selector.register(end, selectors.EVENT_READ)
            number = -1
            try:
                parts = wire.pack(message)
                for end, number in ends.items():  # noqa: B007 (named by the error)
                    wire.send(end, parts)
                while len(replies) < len(ends):
                    ready = selector.select(max(0.0, deadline - time.monotonic()))
                    if not ready:
                        waiting = sorted(set(ends.values()) - set(replies))
                        raise Lost(f"worker {waiting[0]} did not answer within {seconds:g} s")
                    for key, _ in ready:
                        end = cast(socket.socket, key.fileobj)
                        number = ends[end]
                        replies[number] = wire.receive(end, wire.STALL_SECONDS)
                        selector.unregister(end)
            except OSError as error:
                self.release()
                raise Lost(f"worker {number} went away ({error})") from error
            except BaseException:
                # After this, a late reply could not be told from one to the next message.
                self.release()
                raise
        return [replies[number] for number in sorted(replies)]

    def dismiss(self) -> bool:
        """Tell all workers to stop, and let them go; whether there were all of them, waiting for it."""
        complete = self._complete()
        for _, end in self._peers.values():
            try:
                wire.send(end, wire.pack(None))
            except OSError as error:
                log.debug("A worker was gone before it could be told to stop: %s", error)
        self.release()
        return complete

    def release(self) -> None:
        """Close all connections, with workers and strangers; go on listening."""
        for end in [*self._strangers, *(end for _, end in self._peers.values())]:
            end.close()
        self._strangers, self._peers = {}, {}

    def close(self) -> None:
        """Close all connections, and listen no more."""
        self.release()
        self._server.close()

    def _complete(self) -> bool:
        return any(len(self._peers) == worker.count for worker, _ in self._peers.values())

    def _look(self, seconds: float) -> None:
        """Let in who stands at the door, read what strangers say, and let go peers whose connection has ended."""
        with selectors.DefaultSelector() as selector:
            for end in [self._server, *self._strangers, *(end for _, end in self._peers.values())]:
                selector.register(end, selectors.EVENT_READ)
            ready = [cast(socket.socket, key.fileobj) for key, _ in selector.select(seconds)]
        for end in ready:
            if end is self._server:
                self._accept()
            elif end in self._strangers:
                self._listen(end)
            else:
                # A worker says nothing before it is asked: its connection has ended.
                self._peers = {n: pair for n, pair in self._peers.items() if pair[1] is not end}
                end.close()
        for end in [end for end, (since, _) in self._strangers.items() if time.monotonic() - since > HELLO_SECONDS]:
            self._refuse(end, "said nothing")

    def _accept(self) -> None:
        try:
            end, _ = self._server.accept()
        except OSError:  # gone again
            return
        end.setblocking(False)
        self._strangers[end] = (time.monotonic(), bytearray())

    def _listen(self, end: socket.socket) -> None:
        _, data = self._strangers[end]
        try:
            data += (got := end.recv(HELLO_BYTES - len(data)))
        except OSError:
            got = b""
        if not got:
            self._refuse(end, "closed the connection")
        elif not hmac.compare_digest(data[:TOKEN_BYTES], self.address.token[: len(data)]):
            self._refuse(end, "does not know the token")
        elif len(data) == HELLO_BYTES:
            del self._strangers[end]
            self._welcome(read_hello(data)[1], end)

    def _welcome(self, worker: Worker, end: socket.socket) -> None:
        wire.keep_alive(end)
        if worker.number in self._peers:
            end.close()
        else:
            self._peers[worker.number] = worker, end

    def _refuse(self, end: socket.socket, why: str) -> None:
        log.warning("A connection to the port of a search was refused: it %s.", why)
        del self._strangers[end]
        end.close()
