"""Processes that are killed, or say goodbye, as the others see it."""

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

from w2vlab.callbacks.process_links import DIED, DONE, ENDS, ProcessLinks

TIMEOUT = 60
fork = multiprocessing.get_context("fork")


class Heard(queue.Queue):
    """Puts together what a process is told."""

    def __call__(self, process: int, word: str) -> None:
        self.put((process, word))


def one_process(number: int, address: Connection, orders: Connection) -> None:
    """Connects, then does as it is told; hands on what it hears."""
    links = ProcessLinks(number, 3, "localhost", lambda _: address.recv(), lambda *news: orders.send(news))
    orders.send("connected")
    for word in iter(orders.recv, None):
        if word == "fork":  # as a data loader does
            if os.fork() == 0:
                time.sleep(TIMEOUT)
                os._exit(0)
            orders.send("forked")
        else:
            links.say(word)
            if word == DONE:
                links.close()


@pytest.fixture
def star() -> Iterator[tuple[ProcessLinks, Heard, dict[int, Any], dict[int, Any]]]:
    """This process as number 0, and two others."""
    heard = Heard()
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
        links = ProcessLinks(0, 3, "localhost", broadcast, heard)
        for connection in orders.values():
            assert told(connection) == "connected"
        deadline = time.monotonic() + TIMEOUT
        while len(links._connections) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield links, heard, orders, processes
    finally:
        for process in processes.values():
            process.kill()
            process.join()


def told(connection: Connection) -> Any:
    assert connection.poll(TIMEOUT)
    return connection.recv()


def test_all_hear_of_a_process_that_was_killed(star: Any) -> None:
    """Though a process that it had forked, which has all its open files, lives on."""
    _, heard, orders, processes = star
    orders[1].send("fork")
    assert told(orders[1]) == "forked"
    processes[1].kill()
    assert heard.get(timeout=TIMEOUT) == (1, DIED)
    assert told(orders[2]) == (1, DIED)


def test_a_goodbye_is_no_death(star: Any) -> None:
    links, heard, orders, processes = star
    orders[1].send(DONE)
    assert heard.get(timeout=TIMEOUT) == (1, DONE)
    orders[2].send(ENDS)
    assert heard.get(timeout=TIMEOUT) == (2, ENDS)
    assert told(orders[2]) == (1, DONE)
    links.say(DONE)
    assert told(orders[2]) == (0, DONE)
    for number in (1, 2):
        orders[number].send(None)
        processes[number].join(TIMEOUT)
        assert processes[number].exitcode == 0
    assert heard.empty()


def first_process(address: Connection) -> None:
    ProcessLinks(0, 2, "127.0.0.1", address.send, lambda *_: None)
    signal.pause()


def test_death_of_the_first_process() -> None:
    here, there = fork.Pipe()
    process = fork.Process(target=first_process, args=(there,))
    process.start()
    try:
        heard = Heard()
        ProcessLinks(1, 2, "127.0.0.1", lambda _: told(here), heard)
        process.kill()
        assert heard.get(timeout=TIMEOUT) == (0, DIED)
    finally:
        process.kill()
        process.join()


def test_first_process_that_nobody_can_reach() -> None:
    with pytest.raises(OSError, match="refused"):
        ProcessLinks(1, 2, "127.0.0.1", lambda _: (1, b"key"), Heard())


def test_a_stranger_who_says_nothing_keeps_nobody_waiting() -> None:
    """As a scanner of ports does on a machine of a cluster."""
    address, there = fork.Pipe()
    orders, theirs = fork.Pipe()
    process = fork.Process(target=one_process, args=(1, there, theirs))
    process.start()
    strangers = []

    def broadcast(invitation: Any) -> None:
        strangers.append(socket.create_connection(("127.0.0.1", invitation[0])))
        address.send(invitation)

    heard = Heard()
    try:
        links = ProcessLinks(0, 2, "localhost", broadcast, heard)
        assert orders.poll(TIMEOUT), "it is not let in"
        assert orders.recv() == "connected"
        orders.send(DONE)
        assert heard.get(timeout=TIMEOUT) == (1, DONE)
        links.close()
    finally:
        process.kill()
        for stranger in strangers:
            stranger.close()


def test_without_a_port_all_go_on_unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no port")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(OSError, match="no port"):
        ProcessLinks(0, 2, "localhost", told.append, print)
    assert told == [None]
    with pytest.raises(OSError, match="could not open a port"):
        ProcessLinks(1, 2, "localhost", lambda _: None, print)
