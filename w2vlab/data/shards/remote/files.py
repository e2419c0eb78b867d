"""Asks servers for lists, sizes and small files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from w2vlab.data.shards.index_file import MAX_INDEX_BYTES
from w2vlab.data.shards.remote.http import HttpTransport
from w2vlab.data.shards.remote.retries import TIMEOUT, seconds_of, with_retries
from w2vlab.data.shards.remote.s3 import S3Transport
from w2vlab.data.shards.remote.transport import FetchError, FileFacts, NotThereError, OutageError, Transport

_AT_ONCE = 16


def transport_of(url: str) -> Transport:
    """Returns what reads the files of a URL."""
    return S3Transport() if url.startswith("s3://") else HttpTransport()


class Remote:
    """Asks servers."""

    def facts(self, urls: Sequence[str]) -> list[FileFacts]:
        """Returns sizes and versions of files.

        Raises:
            FetchError: One of them is not there.
        """
        timeout = seconds_of(TIMEOUT)

        def ask(url: str) -> FileFacts:
            return with_retries(url, lambda: transport_of(url).facts(url, timeout))

        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            return list(pool.map(ask, urls))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error, all others would be asked for

    def list_files(self, url: str) -> list[FileFacts]:
        """Returns the files of a folder.

        Raises:
            FetchError: The server has no lists, or the folder is not there.
        """
        return with_retries(url, lambda: transport_of(url).list_files(url, seconds_of(TIMEOUT)))

    def read_text(self, url: str, missing_ok: bool) -> str | None:
        """Returns the text of a file.

        Args:
            url: Its URL.
            missing_ok: Whether None is returned if it does not exist.

        Raises:
            FetchError: The server does not deliver it.
        """
        try:
            return with_retries(url, lambda: _read(url))
        except NotThereError:
            if missing_ok:
                return None
            raise


def _read(url: str) -> str:
    data = bytearray()
    with transport_of(url).open(url, 0, None, seconds_of(TIMEOUT)) as stream:
        for chunk in stream.chunks:
            data += chunk
            if len(data) > MAX_INDEX_BYTES:
                raise FetchError(f"{url}: it has more than {MAX_INDEX_BYTES >> 20} MiB, and is no index of shards.")
        if stream.facts.size is not None and len(data) != stream.facts.size:
            raise OutageError(f"{len(data):,} of {stream.facts.size:,} bytes came")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise FetchError(f"{url}: it is not text in UTF-8.") from None
