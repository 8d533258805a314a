"""A small HTTP proxy in front of a store that answers some requests as a store does on a bad day."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# Not passed on: they belong to one connection.
_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


@dataclass(frozen=True)
class Fault:
    """What happens to requests that it applies to.

    Args:
        applies: of method, path and how many requests came before this one.
        status: answered in the store's place; None: the request reaches the store.
        seconds: waited before the answer.
        reset: the connection is closed before the request reaches the store.
        lost: the connection is closed when the store has done its part.
    """

    applies: Callable[[str, str, int], bool]
    status: int | None = None
    seconds: float = 0.0
    reset: bool = False
    lost: bool = False


@dataclass
class Proxy:
    """A running proxy. `hit` lists the requests that the fault applied to."""

    endpoint: str
    fault: Fault | None = None
    hit: list[str] = field(default_factory=list)
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_of(self, method: str, path: str) -> Fault | None:
        """The fault, when it applies to this request."""
        with self.lock:
            before, self.count = self.count, self.count + 1
            if self.fault is None or not self.fault.applies(method, path, before):
                return None
            self.hit.append(f"{method} {path}")
            return self.fault


@contextmanager
def in_front_of(store: str) -> Iterator[Proxy]:
    """A proxy for the store at an address `http://host:port`."""
    target = urlsplit(store).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = proxy.fault_of(self.command, self.path)
            if fault is None:
                self._answer(*self._forwarded(body))
                return
            time.sleep(fault.seconds)  # the fault itself: a store that is slow
            if fault.status is not None:
                self._answer(fault.status, [], _error(fault.status))
                return
            answer = None if fault.reset else self._forwarded(body)
            if answer is None or fault.lost:
                self.close_connection = True
            else:
                self._answer(*answer)

        def _forwarded(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            upstream = http.client.HTTPConnection(target, timeout=60)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                upstream.close()

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            length = str(len(body))
            for name, value in headers:
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value  # of what a GET would bring
                elif name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test says what went wrong."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _error(status: int) -> bytes:
    """S3's answer of that status."""
    code = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}[status]
    return f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
