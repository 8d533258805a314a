"""Driver and workers over sockets, the workers as threads of this process: each test ends within seconds."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from models.exact.driver import rendezvous
from models.exact.driver.rendezvous import Lost, Missing, Rendezvous
from models.exact.worker import wire
from models.exact.worker.answers import Failure
from models.exact.worker.blocks import Blocks, Cell
from models.exact.worker.peer import Worker, hello, serve
from tests.models.exact import kernels_in_workers

pytestmark = [pytest.mark.quick, pytest.mark.timeout(60)]


@pytest.fixture
def driver() -> Iterator[Rendezvous]:
    kernels_in_workers.arm()
    with closing(Rendezvous("127.0.0.1", "127.0.0.1")) as driver:
        yield driver


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def blocks(n: int) -> Blocks:
    return Blocks([Cell(0, np.ones((n, 2)), np.empty((n, 0), np.int32), np.ones(n), np.ones(n))])


def start(threads: ThreadPoolExecutor, driver: Rendezvous, count: int) -> list[Future[None]]:
    """Workers with 1, 2, ... rows, connecting in no certain order."""
    return [
        threads.submit(serve, driver.address, Worker(i, count), lambda i=i: blocks(i + 1), patience=20.0)
        for i in range(count)
    ]


def never() -> bool:
    return False


def connect(driver: Rendezvous, data: bytes = b"") -> socket.socket:
    end = socket.create_connection((driver.address.host, driver.address.port), timeout=10)
    end.sendall(data)
    return end


def closed(end: socket.socket) -> bool:
    with end:
        try:
            return end.recv(1) == b""
        except ConnectionError:
            return True


@pytest.mark.parametrize("count", [1, 2, 7])
def test_replies_come_in_the_order_of_workers(driver: Rendezvous, threads: ThreadPoolExecutor, count: int) -> None:
    workers = start(threads, driver, count)
    driver.gather(10, never)

    rounds = [driver.exchange(("count", {})) for _ in range(3)]
    driver.dismiss()

    assert rounds == [[{"rows": {0: i + 1}} for i in range(count)]] * 3
    assert [worker.result(10) for worker in workers] == [None] * count


def test_large_arrays_arrive_whole_and_can_be_written_to() -> None:
    """Ten megabytes and odd layouts through a real socket."""
    message = {
        "c": np.arange(1_300_000.0).reshape(1300, 1000),
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "strided": np.arange(20)[::3],
        "empty": np.empty((0, 3)),
        "plain": ("text", 1, None),
    }
    with ThreadPoolExecutor(1) as pool:
        left, right = socket.socketpair()
        with left, right:
            sent = pool.submit(wire.send, left, wire.pack(message))
            received = wire.receive(right, 10)
            sent.result(10)

    for got in (received, wire.unpack(b"".join(wire.pack(message)))):
        assert got.keys() == message.keys()
        assert got["plain"] == message["plain"]
        for name in ("c", "fortran", "strided", "empty"):
            np.testing.assert_array_equal(got[name], message[name])
            got[name][...] = 0


def test_strangers_are_refused(
    driver: Rendezvous, threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong token, half a token and silence: none is let in or holds up the workers, and none makes the driver unpickle."""
    monkeypatch.setattr(rendezvous, "HELLO_SECONDS", 0.5)
    wrong = connect(driver, hello(b"x" * 32, Worker(0, 1)))
    half, silent = connect(driver, driver.address.token[:16]), connect(driver)
    with pytest.raises(Missing, match=r"0 of all workers connected to 127.0.0.1:\d+ within 1 s"):
        driver.gather(1, never)
    assert [closed(end) for end in (wrong, half, silent)] == [True, True, True]
    assert sorted(record.getMessage().partition("it ")[2] for record in caplog.records) == [
        "does not know the token.", "said nothing.", "said nothing.",
    ]  # fmt: skip

    worker = threads.submit(
        serve, replace(driver.address, token=b"y" * 32), Worker(0, 1), lambda: blocks(1), patience=20.0
    )
    (right,) = start(threads, driver, 1)
    driver.gather(10, never)
    assert driver.exchange(("count", {})) == [{"rows": {0: 1}}]
    driver.dismiss()
    assert right.result(10) is None
    driver.close()
    with pytest.raises(ConnectionError):
        worker.result(10)


def test_the_token_is_in_no_description(driver: Rendezvous) -> None:
    assert "token" not in repr(driver.address)
    assert len(driver.address.token) == 32


def test_a_worker_that_does_not_come_is_missed_in_time(driver: Rendezvous) -> None:
    first = connect(driver, hello(driver.address.token, Worker(0, 2)))
    started = time.monotonic()
    with first, pytest.raises(Missing, match=r"1 of 2 workers connected .* within 0.5 s"):
        driver.gather(0.5, lambda: True)

    assert time.monotonic() - started < 3


def test_waiting_starts_anew_while_workers_are_coming(driver: Rendezvous) -> None:
    """Spark may compute for long before the first worker can run."""
    until = time.monotonic() + 2
    with pytest.raises(Missing):
        driver.gather(0.3, lambda: time.monotonic() < until)

    assert time.monotonic() > until + 0.2


def test_of_two_with_one_number_the_first_stays(driver: Rendezvous) -> None:
    with connect(driver, hello(driver.address.token, Worker(0, 2))) as first:
        with pytest.raises(Missing, match="1 of 2"):
            driver.gather(0.5, never)
        second = connect(driver, hello(driver.address.token, Worker(0, 2)))
        with pytest.raises(Missing, match="1 of 2"):
            driver.gather(0.5, never)

        assert closed(second)
        first.settimeout(0.3)
        with pytest.raises(TimeoutError):
            first.recv(1)


def test_a_worker_that_leaves_before_all_are_there_is_no_longer_counted(driver: Rendezvous) -> None:
    connect(driver, hello(driver.address.token, Worker(0, 2))).close()
    with connect(driver, hello(driver.address.token, Worker(1, 2))), pytest.raises(Missing, match="1 of 2"):
        driver.gather(1, never)


def test_a_worker_that_goes_away_in_a_round_is_noticed_at_once(driver: Rendezvous, threads: ThreadPoolExecutor) -> None:
    """The others are let go, for Spark starts them all anew."""
    ends = [connect(driver, hello(driver.address.token, Worker(i, 2))) for i in range(2)]
    driver.gather(10, never)
    timer = threading.Timer(0.3, ends[1].close)
    timer.start()
    started = time.monotonic()
    with pytest.raises(Lost, match="worker 1 went away"):
        driver.exchange(("count", {}), 30)

    assert time.monotonic() - started < 5
    ends[0].settimeout(5)
    assert b"count" in ends[0].recv(1000)
    assert closed(ends[0])


def test_a_worker_that_does_not_answer_is_lost_in_time(driver: Rendezvous, threads: ThreadPoolExecutor) -> None:
    (worker,) = start(threads, driver, 1)
    driver.gather(10, never)
    started = time.monotonic()
    with pytest.raises(Lost, match=r"worker 0 did not answer within 0.5 s"):
        driver.exchange(("rest", {"arm": None, "seconds": 2}), 0.5)

    assert time.monotonic() - started < 1.5
    driver.release()
    with pytest.raises(ConnectionError):
        worker.result(10)


def test_a_failing_kernel_or_load_answers_and_waits_on(driver: Rendezvous, threads: ThreadPoolExecutor) -> None:
    def broken() -> Blocks:
        raise MemoryError("no room")

    well, sick = (
        threads.submit(serve, driver.address, Worker(i, 2), load, patience=20.0)
        for i, load in enumerate((lambda: blocks(1), broken))
    )
    driver.gather(10, never)
    first, second = driver.exchange(("refuse", {"arm": None}))
    third, _ = driver.exchange(("count", {}))
    driver.dismiss()

    assert isinstance(first, Failure) and isinstance(second, Failure)
    assert (first.kind, first.message) == ("ZeroDivisionError", "seven by nothing")
    assert "in refuse" in first.trace
    assert (second.kind, second.message) == ("MemoryError", "no room")
    assert third == {"rows": {0: 1}}
    assert [worker.result(10) for worker in (well, sick)] == [None, None]


def test_an_unknown_kernel_is_a_failure(driver: Rendezvous, threads: ThreadPoolExecutor) -> None:
    start(threads, driver, 1)
    driver.gather(10, never)
    (reply,) = driver.exchange(("os.system", {}))
    driver.dismiss()

    assert (reply.kind, reply.message) == ("KeyError", "'os.system'")


def test_a_worker_whose_driver_is_gone_ends_with_an_error(driver: Rendezvous, threads: ThreadPoolExecutor) -> None:
    gone, silent = (
        threads.submit(serve, driver.address, Worker(i, 2), lambda: blocks(1), patience=patience)
        for i, patience in enumerate((20.0, 0.5))
    )
    driver.gather(10, never)
    assert isinstance(silent.exception(10), TimeoutError)
    driver.close()
    with pytest.raises(wire.Closed):
        gone.result(10)
    with pytest.raises(ConnectionRefusedError):
        serve(driver.address, Worker(0, 1), lambda: blocks(1))


def test_the_port_can_be_chosen_and_must_be_free(driver: Rendezvous) -> None:
    with pytest.raises(OSError, match="in use"):
        Rendezvous("127.0.0.1", "127.0.0.1", driver.address.port)
