"""Connections between the processes of a run, by which they detect that one of them has died."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import weakref
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from typing import Any

DONE, FAILED, DIED = "done", "failed", "died"
"""Status of a process: finished, ending with an exception, or gone without a message."""

_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""TCP keep-alive options, by which an unreachable machine is detected after 20 s.

Keep-alive probes are answered by the kernel, so that a busy process does not seem dead.
"""


class ProcessLinks:
    """Star-shaped connections from process 0 to all other processes.

    An open connection shows that a process is alive: when a process is killed, the kernel closes its connections at
    once, on any machine. No heartbeat messages are needed, so that a long computation or import does not look like a
    death.

    Args:
        process: Rank of this process.
        num_processes: Number of processes, at least 2.
        host: Address of the machine of process 0.
        broadcast: Returns the object that process 0 passes in; called once on each process.
        on_status: Called with the rank and status of another process, in a background thread.

    Raises:
        OSError: Process 0 cannot be reached.
    """

    def __init__(
        self,
        process: int,
        num_processes: int,
        host: str,
        broadcast: Callable[[Any], Any],
        on_status: Callable[[int, str], None],
    ) -> None:
        self._process = process
        self._on_status = on_status
        self._final_status: dict[int, str] = {}
        self._connections: dict[int, Connection] = {}  # by the rank of the other process
        self._send_lock = threading.Lock()
        self._server: socket.socket | None = None
        _all_links.add(self)
        if process == 0:
            try:
                bound = "127.0.0.1" if host in ("127.0.0.1", "localhost") else ""
                self._server = socket.create_server((bound, 0), backlog=num_processes)
            except OSError:
                broadcast(None)  # the other processes wait for it
                raise
            key = secrets.token_bytes(32)
            broadcast((self._server.getsockname()[1], key))
            _start_thread(self._accept, self._server, key, num_processes - 1)
        else:
            port_and_key = broadcast(None)
            if port_and_key is None:
                raise ConnectionError("process 0 could not open a port")
            port, key = port_and_key
            try:
                connection = Client((host, port), authkey=key)
                connection.send(process)
            except (AuthenticationError, EOFError) as problem:
                raise ConnectionError(str(problem)) from problem
            _enable_keepalive(connection)
            self._connections[0] = connection
            _start_thread(self._listen, 0, connection)

    def announce(self, status: str) -> None:
        """Sends the status of this process to all others."""
        self._send_to_all(self._process, status)

    def close(self) -> None:
        """Closes the connections for writing; the other end can still read sent data."""
        for connection in self._connections.values():
            try:
                with _duplicate_socket(connection) as duplicate:
                    duplicate.shutdown(socket.SHUT_WR)
            except OSError:
                continue  # already closed

    def _accept(self, server: socket.socket, key: bytes, num_others: int) -> None:
        while True:
            try:
                accepted, _ = server.accept()
            except OSError:
                return  # the server was closed, because all processes are connected
            # In a thread, because a foreign client that sends nothing must not block the other processes.
            _start_thread(self._authenticate, Connection(accepted.detach()), server, key, num_others)

    def _authenticate(self, connection: Connection, server: socket.socket, key: bytes, num_others: int) -> None:
        try:
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
            process = connection.recv()
        except (OSError, EOFError, AuthenticationError):
            connection.close()  # a foreign client
            return
        _enable_keepalive(connection)
        self._connections[process] = connection
        if len(self._connections) == num_others:
            server.shutdown(socket.SHUT_RDWR)  # wakes `accept`, which `close` alone does not
            server.close()
        self._listen(process, connection)

    def _listen(self, process: int, connection: Connection) -> None:
        while True:
            try:
                subject, status = connection.recv()
            except (EOFError, OSError):
                break
            self._receive(subject, status, sender=process)
        if process not in self._final_status:
            self._receive(process, DIED, sender=process)
        connection.close()

    def _receive(self, process: int, status: str, sender: int) -> None:
        self._final_status[process] = status
        if self._process == 0:
            self._send_to_all(process, status, exclude=sender)
        self._on_status(process, status)

    def _send_to_all(self, process: int, status: str, exclude: int | None = None) -> None:
        with self._send_lock:
            for other, connection in list(self._connections.items()):
                if other != exclude:
                    try:
                        connection.send((process, status))
                    except OSError:
                        continue  # that process is gone, which its own `_listen` detects

    def close_inherited(self) -> None:
        """Closes the sockets in a forked child, where they would keep the connection open after the parent's death."""
        for connection in self._connections.values():
            connection.close()
        if self._server is not None:
            self._server.close()


_all_links: weakref.WeakSet[ProcessLinks] = weakref.WeakSet()


def _close_all_inherited() -> None:
    for links in _all_links:
        links.close_inherited()


os.register_at_fork(after_in_child=_close_all_inherited)


def _duplicate_socket(connection: Connection) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.fileno()))


def _enable_keepalive(connection: Connection) -> None:
    with _duplicate_socket(connection) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                duplicate.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _start_thread(function: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=function, args=args, daemon=True, name="process-watch").start()
