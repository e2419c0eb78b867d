"""A server of files that can fail in the ways of real ones."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections import Counter, defaultdict, deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class Server:
    """Serves a folder over http.

    Attributes:
        faults: What the next requests of a path get, in place of the file: a status, `stall` (half of the bytes, then
            none), `early` (half of them, with the right length), `reset`, `short` (half of them, without a length).
        requests: Number of GET requests of each path.
        ranges: First bytes that were asked for, by path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: dict[str, deque[int | str]] = defaultdict(deque)
        self.requests: Counter[str] = Counter()
        self.ranges: dict[str, list[int]] = defaultdict(list)
        self.knows_ranges = True
        self.knows_lengths = True
        self.refuses_head = False
        self.released = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.connections: list[socket.socket] = []
        self.start()

    def start(self) -> None:
        """Answers, on the same port as before."""
        handler = type("Handler", (_Handler,), {"of": self})
        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Goes away: connections are refused."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def url(self, name: str = "") -> str:
        """Returns the URL of a file."""
        return f"http://127.0.0.1:{self.port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    of: Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.of.connections.append(self.connection)

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, head: bool) -> None:
        name = unquote(self.path.partition("?")[0]).lstrip("/")
        if not head:
            self.of.requests[name] += 1
        fault = self.of.faults[name].popleft() if self.of.faults[name] and not head else None
        path = self.of.folder / name
        if isinstance(fault, int) or not path.is_file() or (head and self.of.refuses_head):
            self.send_response(fault if isinstance(fault, int) else 403 if path.is_file() else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = path.read_bytes()
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        start = 0
        if self.of.knows_ranges and self.headers.get("If-Range", tag) == tag:
            start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        self.of.ranges[name].append(start)
        if start >= len(data) > 0:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        body = data[start:]
        if fault == "short" or not self.of.knows_lengths:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if head:
            return
        half = body[: len(body) // 2]
        if fault is None:
            self.wfile.write(body)
            return
        self.wfile.write(half)
        self.wfile.flush()
        self.close_connection = True
        if fault == "stall":
            self.of.released.wait(60)
        elif fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
