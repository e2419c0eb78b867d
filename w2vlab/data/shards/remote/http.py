"""Reads files of http and https servers with urllib3, through the proxy and with the passwords that the system has."""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, SSLError
from urllib3.util import Retry, Timeout, make_headers

from w2vlab.data.shards.remote.transport import CHUNK, FetchError, FileFacts, NotThereError, OutageError, Stream
from w2vlab.types import Seconds

_MAY_PASS = {408, 425, 429}
"""Status of requests, beside those from 500 on, that may succeed later."""

_NOTHING_LEFT = 416
"""Status of a request of a part that begins after the end of the file."""

_ADVICE = {
    401: "log in: ~/.netrc may have user and password of the host",
    403: "it is not allowed: check the rights, or whether a signed URL has expired",
    404: "it does not exist: check the URL",
    410: "it does not exist any more",
}

_pools: dict[tuple[int, str | None], urllib3.PoolManager] = {}


class HttpTransport:
    """Reads files of http and https servers."""

    def facts(self, url: str, timeout: Seconds) -> FileFacts:
        """See `Transport`; asks with HEAD, and with GET where that is refused, as for signed URLs."""
        try:
            with _request("HEAD", url, {}, timeout) as response:
                return _facts(url, response, 0)
        except NotThereError:
            raise
        except FetchError:
            with _request("GET", url, {"Range": "bytes=0-0"}, timeout) as response:
                return _facts(url, response, 0)

    @contextmanager
    def open(self, url: str, start: int, tag: str | None, timeout: Seconds) -> Iterator[Stream]:
        """See `Transport`; a server that ignores `Range` delivers all bytes."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and tag is not None:
            headers["If-Range"] = tag
        with _request("GET", url, headers, timeout) as response:
            if response.status != _NOTHING_LEFT:
                begins = _start_of(response)
                yield Stream(_facts(url, response, begins), begins, _chunks(response))
                return
        with self.open(url, 0, None, timeout) as stream:
            yield stream

    def list_files(self, url: str, timeout: Seconds) -> list[FileFacts]:
        """Raises a FetchError: http has no lists of files."""
        raise FetchError(f"{url}: a server of https has no list of files: it needs a shards.json, or a range of tars.")


@contextmanager
def _request(method: str, url: str, headers: dict[str, str], timeout: Seconds) -> Iterator[Any]:
    # Audio is compressed already, and the size must be that of the file.
    headers = {"Accept-Encoding": "identity", "User-Agent": "w2vlab", **_password(url), **headers}
    retries = Retry(connect=0, read=0, status=0, other=0, redirect=10, raise_on_redirect=False)
    try:
        response = _pool(url).request(
            method, url, headers=headers, preload_content=False, retries=retries, timeout=Timeout(timeout, timeout)
        )
    except LocationParseError:
        raise FetchError(f"{url}: it is no URL.") from None
    except HTTPError as error:
        cause = getattr(error, "reason", None) or error
        if isinstance(cause, SSLError):
            raise FetchError(f"{url}: no safe connection ({_short(cause)}).") from None
        raise OutageError(_short(cause)) from None
    except OSError as error:
        raise OutageError(_short(error)) from None
    try:
        status = response.status
        if status in _MAY_PASS or status >= 500:
            raise OutageError(f"status {status}")
        if status >= 300 and not (status == _NOTHING_LEFT and "Range" in headers):
            advice = _ADVICE.get(status, "it is refused")
            kind = NotThereError if status == 404 else FetchError
            raise kind(f"{url}: status {status}, {advice}.")
        yield response
    finally:
        # A body that is not read to its end would keep the connection busy.
        response.close()


def _facts(url: str, response: Any, start: int) -> FileFacts:
    size: int | None = None
    total = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", response.headers.get("Content-Range", ""))
    if total:
        size = int(total.group(1))
    elif response.headers.get("Content-Length", "").isdecimal() and not response.headers.get("Content-Encoding"):
        size = start + int(response.headers["Content-Length"])
    return FileFacts(url, size, response.headers.get("ETag"))


def _start_of(response: Any) -> int:
    """Returns the first byte of a response."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found.group(1)) if found and response.status == 206 else 0


def _chunks(response: Any) -> Iterator[bytes]:
    try:
        # `read1` returns what has come, so that a stall is noticed and what came before it is kept.
        # After the last byte it would wait for more, because the connection stays open.
        while response.length_remaining != 0 and (chunk := response.read1(CHUNK, decode_content=False)):
            yield chunk
        if response.length_remaining:
            raise OutageError(f"the connection was closed {response.length_remaining:,} bytes early")
    except HTTPError as error:
        raise OutageError(_short(error)) from None
    except OSError as error:
        raise OutageError(_short(error)) from None


def _pool(url: str) -> urllib3.PoolManager:
    """Returns the connections of this process: those of a parent must not be used by two."""
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    key = os.getpid(), proxy
    if key not in _pools:
        _pools[key] = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager(maxsize=16)
    return _pools[key]


def _password(url: str) -> dict[str, str]:
    host = urlsplit(url).hostname or ""
    with suppress(OSError, netrc.NetrcParseError):
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
        if found:
            return make_headers(basic_auth=f"{found[0]}:{found[2]}")
    return {}


def _short(error: BaseException) -> str:
    text = re.sub(r"^\S*(Connection|Connect)\S*\(.*?\): ", "", str(error)) or type(error).__name__
    return " ".join(text.split())[:200]
