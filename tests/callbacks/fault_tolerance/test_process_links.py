"""The status of killed and finished processes, as the other processes receive it."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import socket
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from w2vlab.callbacks.fault_tolerance.process_links import DIED, DONE, FAILED, ProcessLinks

TIMEOUT = 60
fork = multiprocessing.get_context("fork")


class Statuses(queue.Queue):
    """Collects the statuses that a process receives."""

    def __call__(self, process: int, word: str) -> None:
        self.put((process, word))


def one_process(number: int, address: Connection, orders: Connection) -> None:
    """Connects, follows orders, and forwards the statuses that it receives."""
    links = ProcessLinks(number, 3, "localhost", lambda _: address.recv(), lambda *news: orders.send(news))
    orders.send("connected")
    for word in iter(orders.recv, None):
        if word == "fork":  # as a data loader with workers does
            if os.fork() == 0:
                time.sleep(TIMEOUT)
                os._exit(0)
            orders.send("forked")
        else:
            links.announce(word)
            if word == DONE:
                links.close()


@pytest.fixture
def star() -> Iterator[tuple[ProcessLinks, Statuses, dict[int, Any], dict[int, Any]]]:
    """This process as process 0, and two other processes."""
    statuses = Statuses()
    addresses, orders, processes = {}, {}, {}
    for number in (1, 2):
        addresses[number], there = fork.Pipe()
        orders[number], theirs = fork.Pipe()
        processes[number] = fork.Process(target=one_process, args=(number, there, theirs))
        processes[number].start()

    def broadcast(address: Any) -> None:
        for connection in addresses.values():
            connection.send(address)

    try:
        links = ProcessLinks(0, 3, "localhost", broadcast, statuses)
        for connection in orders.values():
            assert receive(connection) == "connected"
        deadline = time.monotonic() + TIMEOUT
        while len(links._connections) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield links, statuses, orders, processes
    finally:
        for process in processes.values():
            process.kill()
            process.join()


def receive(connection: Connection) -> Any:
    assert connection.poll(TIMEOUT)
    return connection.recv()


def test_a_killed_process_is_detected_by_all(star: Any) -> None:
    """Even if a child that it has forked, which inherited its sockets, is still alive."""
    _, statuses, orders, processes = star
    orders[1].send("fork")
    assert receive(orders[1]) == "forked"
    processes[1].kill()
    assert statuses.get(timeout=TIMEOUT) == (1, DIED)
    assert receive(orders[2]) == (1, DIED)


def test_a_finished_process_does_not_count_as_dead(star: Any) -> None:
    links, statuses, orders, processes = star
    orders[1].send(DONE)
    assert statuses.get(timeout=TIMEOUT) == (1, DONE)
    orders[2].send(FAILED)
    assert statuses.get(timeout=TIMEOUT) == (2, FAILED)
    assert receive(orders[2]) == (1, DONE)
    links.announce(DONE)
    assert receive(orders[2]) == (0, DONE)
    for number in (1, 2):
        orders[number].send(None)
        processes[number].join(TIMEOUT)
        assert processes[number].exitcode == 0
    assert statuses.empty()


def first_process(address: Connection) -> None:
    ProcessLinks(0, 2, "127.0.0.1", address.send, lambda *_: None)
    signal.pause()


def test_death_of_process_0() -> None:
    here, there = fork.Pipe()
    process = fork.Process(target=first_process, args=(there,))
    process.start()
    try:
        statuses = Statuses()
        ProcessLinks(1, 2, "127.0.0.1", lambda _: receive(here), statuses)
        process.kill()
        assert statuses.get(timeout=TIMEOUT) == (0, DIED)
    finally:
        process.kill()
        process.join()


def test_process_0_that_cannot_be_reached() -> None:
    with pytest.raises(OSError, match="refused"):
        ProcessLinks(1, 2, "127.0.0.1", lambda _: (1, b"key"), Statuses())


def test_a_foreign_client_that_sends_nothing_does_not_block() -> None:
    """Such as a port scanner on a cluster."""
    address, there = fork.Pipe()
    orders, theirs = fork.Pipe()
    process = fork.Process(target=one_process, args=(1, there, theirs))
    process.start()
    clients = []

    def broadcast(port_and_key: Any) -> None:
        clients.append(socket.create_connection(("127.0.0.1", port_and_key[0])))
        address.send(port_and_key)

    statuses = Statuses()
    try:
        links = ProcessLinks(0, 2, "localhost", broadcast, statuses)
        assert orders.poll(TIMEOUT), "it could not connect"
        assert orders.recv() == "connected"
        orders.send(DONE)
        assert statuses.get(timeout=TIMEOUT) == (1, DONE)
        links.close()
    finally:
        process.kill()
        for client in clients:
            client.close()


def test_without_a_port_all_processes_raise_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    broadcast: list[Any] = []

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no port")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(OSError, match="no port"):
        ProcessLinks(0, 2, "localhost", broadcast.append, print)
    assert broadcast == [None]
    with pytest.raises(OSError, match="could not open a port"):
        ProcessLinks(1, 2, "localhost", lambda _: None, print)
