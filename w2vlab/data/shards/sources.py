"""Tells corpora in shards from others: by their URL, by a range of numbers, or by the files of a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from w2vlab.data.audio.probing import EXTENSIONS

INDEX = "shards.json"
"""Name of the index of a corpus in shards, in its folder."""

SCHEMES = ("s3", "http", "https")

MAX_SHARDS = 1_000_000
"""Most shards of a range of numbers."""

_URL = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tar\.[a-z0-9]+)$", re.IGNORECASE)


@dataclass(frozen=True)
class ShardedCorpus:
    """A corpus in shards that is no file or folder: a URL, or several tars by a range of numbers.

    Attributes:
        location: URL, or absolute path with a range such as `{000000..000099}`.
    """

    location: str

    def __str__(self) -> str:
        return self.location

    @property
    def name(self) -> str:
        """The last part of the location."""
        return PurePosixPath(self.location.partition("?")[0]).name

    @property
    def stem(self) -> str:
        """The last part of the location, without its suffix and without characters that a file name cannot have."""
        return re.sub(r"[^A-Za-z0-9_.-]+", "_", PurePosixPath(self.name).stem) or "shards"


Source = Path | ShardedCorpus
"""Where a corpus is: a folder, a manifest, or shards."""


def parse_source(corpus: str) -> Source:
    """Returns the source that a path, a URL or a range of tars means; a URL is not a path, which would lose a slash.

    Raises:
        ValueError: The URL is of a kind that is not read, or has a password.
    """
    found = _URL.match(corpus)
    if found:
        scheme = found.group(1).lower()
        if scheme not in SCHEMES:
            kinds = " or ".join(f"{known}://" for known in SCHEMES)
            raise ValueError(f"`corpus` must be a path or begin with {kinds}, but is {corpus!r}.")
        if "@" in corpus[found.end() :].partition("/")[0]:
            raise ValueError("`corpus` must be a URL without a user or password; ~/.netrc may have them.")
        return ShardedCorpus(scheme + corpus[found.end() - 3 :].rstrip("/"))
    path = Path(corpus).expanduser().absolute()
    return ShardedCorpus(str(path)) if _RANGE.search(path.name) and not path.exists() else path


def is_url(location: str) -> bool:
    """Returns whether a location is a URL; otherwise it is a path."""
    return _URL.match(location) is not None


def is_sharded(source: Source) -> bool:
    """Returns whether a corpus is in shards.

    A folder is if it has `shards.json`, or `cuts.*.jsonl.gz` and `recording.*.tar`, or tars and neither audio nor
    folders.

    Args:
        source: The corpus.
    """
    if isinstance(source, ShardedCorpus):
        return True
    if not source.is_dir():
        return is_tar(source.name) or is_compressed_tar(source.name)
    if (source / INDEX).is_file():
        return True
    tars = cuts = others = False
    with os.scandir(source) as entries:
        for entry in entries:
            tars |= is_tar(entry.name) or is_compressed_tar(entry.name)
            cuts |= is_cuts_file(entry.name)
            others |= os.path.splitext(entry.name)[1].lower() in EXTENSIONS or entry.is_dir()
    return tars and (cuts or not others)


def labels_of(source: Source, cuts: Path) -> Path:
    """Returns where the labels of a corpus are: those of shards, which may be on a server, in the prepared manifest.

    Args:
        source: The corpus.
        cuts: Its prepared manifest.
    """
    return cuts if isinstance(source, ShardedCorpus) or is_sharded(source) else source


def is_tar(name: str) -> bool:
    """Returns whether a file is a tar by its name."""
    return name.lower().endswith(".tar") and not name.startswith(".")


def is_compressed_tar(name: str) -> bool:
    """Returns whether a file is a compressed tar by its name."""
    return _COMPRESSED.search(name) is not None and not name.startswith(".")


def is_cuts_file(name: str) -> bool:
    """Returns whether a file has the cuts of a shard in lhotse's Shar by its name."""
    return re.fullmatch(r"cuts(\..*)?\.jsonl(\.gz)?", name) is not None


def expand_ranges(location: str) -> Iterator[str]:
    """Yields the locations that ranges such as `{000000..000099}` mean, in their order.

    Raises:
        ValueError: A range runs backwards, or there are too many shards.
    """
    found = _RANGE.search(location)
    if found is None:
        yield location
        return
    first, last = (int(number) for number in found.groups())
    if not 0 <= last - first < MAX_SHARDS:
        raise ValueError(f"`corpus` must have a range from a smaller to a larger number, but is {location!r}.")
    width = len(found.group(1)) if found.group(1).startswith("0") else 0
    for number in range(first, last + 1):
        yield from expand_ranges(f"{location[: found.start()]}{number:0{width}}{location[found.end() :]}")
