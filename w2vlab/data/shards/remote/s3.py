"""Reads files of S3 and servers like it with boto3, which takes keys and server from the environment as always."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from w2vlab.data.shards.remote.transport import CHUNK, FetchError, FileFacts, NotThereError, OutageError, Stream
from w2vlab.types import Seconds

_MISSING = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_KEYS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL for a server that is not Amazon's), "
    "or a profile of ~/.aws"
)

_clients: dict[tuple[int, Seconds], Any] = {}


class S3Transport:
    """Reads files of S3.

    Raises:
        ValueError: boto3 is not installed.
    """

    def __init__(self) -> None:
        try:
            import boto3  # noqa: F401
        except ModuleNotFoundError:
            raise ValueError(
                "`corpus` with s3:// needs boto3, which is not installed: pip install 'w2vlab[s3]'."
            ) from None

    def facts(self, url: str, timeout: Seconds) -> FileFacts:
        """See `Transport`."""
        bucket, key = _split(url)
        with _translated(url):
            found = _client(timeout).head_object(Bucket=bucket, Key=key)
        return FileFacts(url, found.get("ContentLength"), found.get("ETag"))

    @contextmanager
    def open(self, url: str, start: int, tag: str | None, timeout: Seconds) -> Iterator[Stream]:
        """See `Transport`."""
        bucket, key = _split(url)
        part: dict[str, str] = {"Range": f"bytes={start}-"} if start else {}
        if start and tag is not None:
            part["IfMatch"] = tag
        found: Any = None
        try:
            with _translated(url):
                found = _client(timeout).get_object(Bucket=bucket, Key=key, **part)
        except _NothingLeftError:
            # All bytes are here already, or the file has changed: its facts say which.
            facts = self.facts(url, timeout)
            yield Stream(facts, start if facts.size == start and tag in (None, facts.tag) else 0, iter(()))
            return
        body = found["Body"]
        size = start + found["ContentLength"]
        try:
            yield Stream(FileFacts(url, size, found.get("ETag")), start, _chunks(url, body))
        finally:
            body.close()

    def list_files(self, url: str, timeout: Seconds) -> list[FileFacts]:
        """See `Transport`; files in folders below are not listed."""
        bucket, prefix = _split(url)
        prefix = f"{prefix}/" if prefix else ""
        found = []
        with _translated(url):
            pages = _client(timeout).get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/"):
                for entry in page.get("Contents", ()):
                    found.append(FileFacts(f"s3://{bucket}/{entry['Key']}", entry["Size"], entry.get("ETag")))
        return found


class _NothingLeftError(Exception):
    """The part that is wanted begins at the end of the file, or the file is of another version."""


def _split(url: str) -> tuple[str, str]:
    parts = urlsplit(url, allow_fragments=False)
    key = url[len(f"s3://{parts.netloc}") :].strip("/")  # a key may have a question mark
    return parts.netloc, key


def _client(timeout: Seconds) -> Any:
    """Returns the client of this process: connections of a parent must not be used by two."""
    import boto3
    from botocore.config import Config

    key = os.getpid(), timeout
    if key not in _clients:
        config = Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            retries={"total_max_attempts": 1},  # repeated by `retries.py`, which counts
            max_pool_connections=16,
        )
        _clients[key] = boto3.session.Session().client("s3", config=config)
    return _clients[key]


@contextmanager
def _translated(url: str) -> Iterator[None]:
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status in (412, 416):
            raise _NothingLeftError from None
        if status >= 500 or status in (408, 429) or code in ("SlowDown", "RequestTimeout", "Throttling"):
            raise OutageError(f"status {status} ({code})") from None
        if code in _MISSING:
            raise NotThereError(f"{url}: {code}, it does not exist: check bucket and name.") from None
        raise FetchError(f"{url}: {code or status}, it is refused: {_KEYS}.") from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound) as error:
        raise FetchError(f"{url}: {error}: {_KEYS}.") from None
    except (exceptions.ParamValidationError, exceptions.NoRegionError, exceptions.SSLError) as error:
        raise FetchError(f"{url}: {' '.join(str(error).split())}.") from None
    except (exceptions.BotoCoreError, OSError) as error:
        raise OutageError(" ".join(str(error).split())[:200]) from None


def _chunks(url: str, body: Any) -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError

    try:
        with _translated(url):
            while chunk := body.read(CHUNK):
                yield chunk
    except HTTPError as error:
        raise OutageError(" ".join(str(error).split())[:200]) from None
