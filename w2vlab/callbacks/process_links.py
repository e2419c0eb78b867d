"""Connections between the processes of a run that serve only to notice when one of them is gone."""

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

DONE, ENDS, DIED = "done", "ends", "died"
"""What can be told of a process: it has finished its work, it ends with an exception, it is gone without a word."""

_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds and trials until a silent machine counts as gone, 20 s in all.

Kernels ask and answer, so a busy process is never suspected.
"""


class ProcessLinks:
    """A star of connections from process 0 to all others.

    An open connection is the sign of life: when a process is killed, the kernel closes its connections at once, on
    whichever machine. Nothing has to be sent meanwhile, so a long computation or import cannot look like a death.

    Args:
        process: Number of this process.
        num_processes: Of the run, at least 2.
        host: Address of the machine of process 0.
        broadcast: Gives every process the object that process 0 hands in; called once on each.
        heard: Called with the number of a process and the word on it, in a thread of its own.

    Raises:
        OSError: Process 0 cannot be reached.
    """

    def __init__(
        self,
        process: int,
        num_processes: int,
        host: str,
        broadcast: Callable[[Any], Any],
        heard: Callable[[int, str], None],
    ) -> None:
        self._process = process
        self._heard = heard
        self._last_words: dict[int, str] = {}
        self._connections: dict[int, Connection] = {}  # by the process at the other end
        self._sending = threading.Lock()
        self._server: socket.socket | None = None
        _all_links.add(self)
        if process == 0:
            try:
                bound = "127.0.0.1" if host in ("127.0.0.1", "localhost") else ""
                self._server = socket.create_server((bound, 0), backlog=num_processes)
            except OSError:
                broadcast(None)  # the others wait for it
                raise
            key = secrets.token_bytes(32)
            broadcast((self._server.getsockname()[1], key))
            _in_thread(self._accept, self._server, key, num_processes - 1)
        else:
            invitation = broadcast(None)
            if invitation is None:
                raise ConnectionError("process 0 could not open a port")
            port, key = invitation
            try:
                connection = Client((host, port), authkey=key)
                connection.send(process)
            except (AuthenticationError, EOFError) as problem:
                raise ConnectionError(str(problem)) from problem
            _keep_alive(connection)
            self._connections[0] = connection
            _in_thread(self._listen, 0, connection)

    def say(self, word: str) -> None:
        """Tells all processes `word` about this one."""
        self._tell(self._process, word)

    def close(self) -> None:
        """Says nothing more; the other end reads to its end what was said."""
        for connection in self._connections.values():
            try:
                with _socket_of(connection) as own:
                    own.shutdown(socket.SHUT_WR)
            except OSError:
                continue  # it is closed already

    def _accept(self, server: socket.socket, key: bytes, number: int) -> None:
        while True:
            try:
                accepted, _ = server.accept()
            except OSError:
                return  # all are there, and it was closed
            # In a thread of its own: a stranger who says nothing must keep nobody waiting.
            _in_thread(self._greet, Connection(accepted.detach()), server, key, number)

    def _greet(self, connection: Connection, server: socket.socket, key: bytes, number: int) -> None:
        try:
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
            process = connection.recv()
        except (OSError, EOFError, AuthenticationError):
            connection.close()  # a stranger
            return
        _keep_alive(connection)
        self._connections[process] = connection
        if len(self._connections) == number:
            server.shutdown(socket.SHUT_RDWR)  # or `accept` would not notice
            server.close()
        self._listen(process, connection)

    def _listen(self, process: int, connection: Connection) -> None:
        while True:
            try:
                about, word = connection.recv()
            except (EOFError, OSError):
                break
            self._take_in(about, word, without=process)
        if process not in self._last_words:
            self._take_in(process, DIED, without=process)
        connection.close()

    def _take_in(self, process: int, word: str, without: int) -> None:
        self._last_words[process] = word
        if self._process == 0:
            self._tell(process, word, without)
        self._heard(process, word)

    def _tell(self, process: int, word: str, without: int | None = None) -> None:
        with self._sending:
            for other, connection in list(self._connections.items()):
                if other != without:
                    try:
                        connection.send((process, word))
                    except OSError:
                        continue  # it is gone, and its own connection says so

    def close_inherited(self) -> None:
        """Closes, in a process that was forked off, what would keep the connection open when the process is killed."""
        for connection in self._connections.values():
            connection.close()
        if self._server is not None:
            self._server.close()


_all_links: weakref.WeakSet[ProcessLinks] = weakref.WeakSet()


def _close_all_inherited() -> None:
    for links in _all_links:
        links.close_inherited()


os.register_at_fork(after_in_child=_close_all_inherited)


def _socket_of(connection: Connection) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.fileno()))


def _keep_alive(connection: Connection) -> None:
    with _socket_of(connection) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _in_thread(function: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=function, args=args, daemon=True, name="process-watch").start()
