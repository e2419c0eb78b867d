"""Lists the utterances of a folder, a fairseq manifest or a lhotse manifest, without reading audio."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lhotse.audio import Recording, RecordingSet
from lhotse.cut import Cut, CutSet, MonoCut, MultiCut
from lhotse.cut.data import DataCut
from lhotse.serialization import load_manifest_lazy

from w2vlab.data.audio.probing import EXTENSIONS, UNSUPPORTED_EXTENSIONS, unsupported_reason
from w2vlab.data.corpora.scanning import CHUNK, Entry
from w2vlab.data.corpora.spool import Spool
from w2vlab.data.corpora.tally import Tally
from w2vlab.data.corpus_advice import about_file, about_table
from w2vlab.data.labels.lines import read_lines
from w2vlab.utils.checks import is_valid_utf8
from w2vlab.utils.parallel import map_waiting
from w2vlab.utils.progress import counting

SCAN_VERSION = b"w2vlab-scan-4"
"""Part of the fingerprint; increased when a scan of the same files gives another result, so that it is repeated."""


@dataclass(frozen=True)
class Listing:
    """The utterances of a corpus.

    Attributes:
        chunks: The utterances, ordered by id, some of them together; on disk.
        total: Number of utterances.
        fingerprint: Hash of the ids of all utterances and of the sizes and modification times of their files.
    """

    chunks: Sequence[list[Entry]]
    total: int
    fingerprint: str


def list_corpus(source: Path, skipped: Tally) -> Listing:
    """Lists the utterances of `source`, and asks the system once for the size and time of each of their files.

    Of a folder, the names of one folder at a time are in memory, and of other sources the ids.

    Args:
        source: The folder or manifest.
        skipped: Counts the utterances that are left out, such as those that are listed twice.

    Raises:
        ValueError: `source` is not a folder or a manifest, or is malformed.
    """
    if not is_valid_utf8(str(source)):
        raise ValueError(f"`corpus` must be a path in UTF-8, but is {str(source)!r}; rename the folder.")
    digest = hashlib.blake2b(digest_size=16, person=SCAN_VERSION)
    manifest = () if source.is_dir() else (source,)
    digest.update(f"[{', '.join(_describe_file(str(path)) for path in manifest)}]".encode())
    chunks: Spool[list[Entry]] = Spool()
    total = 0
    with counting("Listing files") as advance:
        for chunk in _in_chunks(_list_in_order(source, skipped)):
            digest.update("".join(map_waiting(_describe, chunk)).encode())
            chunks.append(chunk)
            total += len(chunk)
            advance(len(chunk))
    return Listing(chunks, total, digest.hexdigest())


def list_entries(source: Path, skipped: Tally) -> Sequence[Entry]:
    """Lists the utterances of `source`, ordered by id; they are on disk.

    Args:
        source: The folder or manifest.
        skipped: Counts the utterances that are left out, such as those that are listed twice.

    Raises:
        ValueError: As in `list_corpus`.
    """
    entries: Spool[Entry] = Spool()
    for entry in _list_in_order(source, skipped):
        entries.append(entry)
    return entries


def iter_ids(source: Path) -> Iterator[str]:
    """Yields the ids of the utterances in the order of the manifest; of a folder, in the order of the ids.

    Args:
        source: The folder or manifest. An id that is listed twice is yielded twice.

    Raises:
        ValueError: As in `list_corpus`.
    """
    for entry in _list(source, Tally()):
        yield entry.id


def _list_in_order(source: Path, skipped: Tally) -> Iterator[Entry]:
    """Yields the utterances ordered by id, each id once."""
    valid = _with_valid_ids(_list(source, skipped), skipped)
    if source.is_dir():
        return valid
    entries: Spool[Entry] = Spool()
    numbers: dict[str, int] = {}
    for entry in valid:
        if entry.id in numbers:
            skipped.add("listed twice", entry.id)
        else:
            numbers[entry.id] = len(entries)
            entries.append(entry)
    return iter(entries.reordered(numbers[name] for name in sorted(numbers)))


def _with_valid_ids(entries: Iterable[Entry], skipped: Tally) -> Iterator[Entry]:
    for entry in entries:
        if is_valid_utf8(entry.id):
            yield entry
        else:
            skipped.add("with a name that is not UTF-8", repr(entry.id))


def _in_chunks(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while chunk := list(islice(entries, CHUNK)):
        yield chunk


def _list(source: Path, skipped: Tally) -> Iterator[Entry]:
    if source.is_dir():
        return _list_folder(source, skipped)
    if source.suffix == ".tsv":
        return _list_tsv(source)
    if source.name.endswith((".jsonl", ".jsonl.gz")):
        return _list_lhotse(source, skipped)
    raise ValueError(
        "`corpus` must be a folder of audio, a fairseq .tsv manifest or a lhotse .jsonl or .jsonl.gz manifest, "
        f"but is {source}.{about_file(source)}"
    )


def _describe(entry: Entry) -> str:
    """Returns what the fingerprint has of an utterance."""
    files = ", ".join(map(_describe_file, entry.files))
    return f"({entry.id!r}, {entry.num_samples!r}, [{files}])"


def _describe_file(path: str) -> str:
    try:
        status = os.stat(path)
        size, time = status.st_size, status.st_mtime_ns
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        size, time = -1, -1
    return f"('{os.fsencode(path).hex()}', {size}, {time})"


def cut_from_recording(recording: Recording) -> DataCut:
    """Returns a cut of the full `recording`, with the same id."""
    cut: DataCut = recording.to_cut()  # type: ignore[no-untyped-call]
    return cut


def _list_folder(root: Path, skipped: Tally) -> Iterator[Entry]:
    """Yields the audio files below `root`, ordered by id: those of one folder after the other."""
    # Symbolic links are followed, because corpora are often assembled from links; `visited` prevents endless loops.
    start = _Folder("", os.fspath(root), os.path.realpath(root))
    visited = {start.real}
    pending = [(start, _read_folder(start, skipped))]
    while pending:
        folder, names = pending[-1]
        if not names:
            pending.pop()
            continue
        name = names.pop()
        if not name.endswith("/"):
            ending = _ending(name)
            if ending in EXTENSIONS:
                yield Entry(folder.prefix + name, (folder.path_prefix + name,))
            elif ending in UNSUPPORTED_EXTENSIONS:
                reason = unsupported_reason(Path(name))
                yield Entry(folder.prefix + name, (folder.path_prefix + name,), reason=reason)
            continue
        inner = folder.inner(name)
        if inner.real not in visited:
            visited.add(inner.real)
            pending.append((inner, _read_folder(inner, skipped)))


class _Folder:
    """A folder in a corpus.

    Args:
        prefix: What the ids of its files begin with.
        path: Its path.
        real: Its path without symbolic links.
    """

    def __init__(self, prefix: str, path: str, real: str) -> None:
        self.prefix, self.path, self.real = prefix, path, real
        self.path_prefix = os.fspath(Path(path, "_"))[:-1]  # as `Path` writes it

    def inner(self, name: str) -> _Folder:
        """Returns the folder `name` in this one; the name ends with a slash."""
        path = self.path_prefix + name[:-1]
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(self.real, name[:-1])
        return _Folder(self.prefix + name, path, real)


def _read_folder(folder: _Folder, skipped: Tally) -> list[str]:
    """Returns the names in a folder, those of folders with a slash at their end, from the last to the first.

    With the slashes the order is that of the ids of all files below the folder.
    """
    try:
        with os.scandir(folder.path) as found:
            names = [f"{entry.name}/" if _is_folder(entry) else entry.name for entry in found]
    except OSError as error:
        skipped.add("folder that cannot be read", str(error.filename))
        return []
    names.sort(reverse=True)
    return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # as a link to itself
        return False


def _ending(name: str) -> str:
    """Returns the suffix of a file name as `Path.suffix` does, in lower case."""
    place = name.rfind(".")
    return name[place:].lower() if place > 0 else ""


def _list_tsv(manifest: Path) -> Iterator[Entry]:
    lines = read_lines(manifest)
    root = Path(lines[0].strip()) if lines else Path()
    if not lines or not root.is_dir():
        found = repr(lines[0]) if lines else "missing"
        raise ValueError(
            f"Line 1 of {manifest} must be an existing folder, but is {found}.{about_table(lines[0] if lines else '')}"
        )
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        name, tab, count = line.partition("\t")
        outside = os.path.isabs(name) or ".." in Path(name).parts
        if outside or not tab or not count.strip().isdecimal():
            raise ValueError(
                f"Line {number} of {manifest} must be a path below the folder of line 1, a tab and a number of "
                f"samples, but is {line!r}."
            )
        yield Entry(name, (str(root / name),), num_samples=int(count))


def _list_lhotse(manifest: Path, skipped: Tally) -> Iterator[Entry]:
    for item in _read_lhotse(manifest):
        if not isinstance(item, MonoCut | MultiCut) or item.recording is None:
            # A window of a mixture or a padded cut cannot be read without computing all of it.
            skipped.add("not a plain cut of a recording", item.id)
            continue
        if any(source.type == "shar" for source in item.recording.sources):
            raise ValueError(
                f"`corpus` must be the folder of shards, but is {manifest}, the cuts of one, whose audio is in a tar: "
                f"give {manifest.parent}."
            )
        if _uses_shell_command(item.recording.to_dict()):
            skipped.add("the output of a shell command, which is not run", item.id)
            continue
        files = tuple(str(source.source) for source in item.recording.sources if source.type == "file")
        yield Entry(item.id, files, item.drop_features().drop_supervisions())


def _uses_shell_command(plain: Any) -> bool:
    """Returns whether lhotse would run a shell command for a recording or its transforms, such as a reverberation."""
    if isinstance(plain, dict):
        return plain.get("type") == "command" or any(map(_uses_shell_command, plain.values()))
    return isinstance(plain, list | tuple) and any(map(_uses_shell_command, plain))


def _read_lhotse(manifest: Path) -> Iterator[Cut]:
    try:
        items: Any = load_manifest_lazy(manifest)
        known = isinstance(items, CutSet | RecordingSet)
        if not known:
            raise ValueError("it has neither cuts nor recordings")
        for item in items:
            yield cut_from_recording(item) if isinstance(item, Recording) else item
    # lhotse's readers raise many types of errors for malformed files; the cause is the same for the user.
    except Exception as error:
        why = about_file(manifest).strip() or f"{error}."
        raise ValueError(f"{manifest} must be a lhotse manifest of cuts or recordings, but is not: {why}") from None
