"""Lists the utterances of a folder, a fairseq manifest or a lhotse manifest, without reading audio."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lhotse.audio import Recording, RecordingSet
from lhotse.cut import Cut, CutSet, MonoCut, MultiCut
from lhotse.cut.data import DataCut
from lhotse.serialization import load_manifest_lazy

from w2vlab.data.audio.probing import EXTENSIONS, unsupported_reason
from w2vlab.data.corpora.spool import Spool
from w2vlab.data.corpora.tally import Tally
from w2vlab.data.labels.lines import read_lines

SCAN_VERSION = b"w2vlab-scan-4"
"""Part of the fingerprint; increased when a scan of the same files gives another result, so that it is repeated."""


@dataclass(frozen=True)
class Entry:
    """One utterance of a corpus.

    Attributes:
        id: Unique id in the corpus.
        paths: Its audio files; empty if the audio is not in local files.
        cut: The cut of a lhotse manifest; None for an audio file.
        num_samples: Number of samples by the manifest; None if the manifest has none.
        reason: Why the utterance is left out, if that is known from its name; None otherwise.
    """

    id: str
    paths: tuple[Path, ...]
    cut: DataCut | None = None
    num_samples: int | None = None
    reason: str | None = None


def list_entries(source: Path, skipped: Tally) -> Sequence[Entry]:
    """Lists the utterances of `source`, ordered by id; only the ids are held in memory.

    Args:
        source: The folder or manifest.
        skipped: Counts the utterances that are left out, such as those that are listed twice.

    Raises:
        ValueError: `source` is not a folder or a manifest, or is malformed.
    """
    entries: Spool[Entry] = Spool()
    numbers: dict[str, int] = {}
    for entry in _list(source, skipped):
        if entry.id in numbers:
            skipped.add("listed twice", entry.id)
        elif not _is_valid_utf8(entry.id):
            skipped.add("with a name that is not UTF-8", repr(entry.id))
        else:
            numbers[entry.id] = len(entries)
            entries.append(entry)
    return entries.reordered(numbers[name] for name in sorted(numbers))


def iter_ids(source: Path) -> Iterator[str]:
    """Yields the ids of the utterances in the order of the manifest; of a folder, in the order of the ids.

    Args:
        source: The folder or manifest. An id that is listed twice is yielded twice.

    Raises:
        ValueError: As in `list_entries`.
    """
    ids = (entry.id for entry in _list(source, Tally()))
    yield from sorted(ids) if source.is_dir() else ids


def _list(source: Path, skipped: Tally) -> Iterator[Entry]:
    if source.is_dir():
        return _list_folder(source, skipped)
    if source.suffix == ".tsv":
        return _list_tsv(source)
    if source.name.endswith((".jsonl", ".jsonl.gz")):
        return _list_lhotse(source, skipped)
    raise ValueError(
        "`corpus` must be a folder of audio, a fairseq .tsv manifest or a lhotse .jsonl or .jsonl.gz manifest, "
        f"but is {source}."
    )


def fingerprint(source: Path, entries: Iterable[Entry]) -> str:
    """Returns a hash of the ids of all utterances and of the sizes and modification times of their files."""
    digest = hashlib.blake2b(digest_size=16, person=SCAN_VERSION)
    manifest = () if source.is_dir() else (source,)
    digest.update(repr([_stat(path) for path in manifest]).encode())
    for entry in entries:
        digest.update(repr((entry.id, entry.num_samples, [_stat(path) for path in entry.paths])).encode())
    return digest.hexdigest()


def cut_from_recording(recording: Recording) -> DataCut:
    """Returns a cut of the full `recording`, with the same id."""
    cut: DataCut = recording.to_cut()  # type: ignore[no-untyped-call]
    return cut


def _stat(path: Path) -> tuple[str, int, int]:
    name = os.fsencode(path).hex()
    try:
        status = path.stat()
    except OSError:
        return name, -1, -1
    return name, status.st_size, status.st_mtime_ns


def _is_valid_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _list_folder(root: Path, skipped: Tally) -> Iterator[Entry]:
    def unreadable(error: OSError) -> None:
        skipped.add("folder that cannot be read", str(error.filename))

    visited = set()
    # Symbolic links are followed, because corpora are often assembled from links; `visited` prevents endless loops.
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=unreadable):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        for name in names:
            path = Path(folder, name)
            reason = unsupported_reason(path)
            if path.suffix.lower() in EXTENSIONS or reason is not None:
                yield Entry(path.relative_to(root).as_posix(), (path,), reason=reason)


def _list_tsv(manifest: Path) -> Iterator[Entry]:
    lines = read_lines(manifest)
    root = Path(lines[0].strip()) if lines else Path()
    if not lines or not root.is_dir():
        found = repr(lines[0]) if lines else "missing"
        raise ValueError(f"Line 1 of {manifest} must be an existing folder, but is {found}.")
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
        yield Entry(name, (root / name,), num_samples=int(count))


def _list_lhotse(manifest: Path, skipped: Tally) -> Iterator[Entry]:
    for item in _read_lhotse(manifest):
        if not isinstance(item, MonoCut | MultiCut) or item.recording is None:
            # A window of a mixture or a padded cut cannot be read without computing all of it.
            skipped.add("not a plain cut of a recording", item.id)
            continue
        if _uses_shell_command(item.recording.to_dict()):
            skipped.add("the output of a shell command, which is not run", item.id)
            continue
        paths = tuple(Path(str(source.source)) for source in item.recording.sources if source.type == "file")
        yield Entry(item.id, paths, item.drop_features().drop_supervisions())


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
        raise ValueError(f"{manifest} must be a lhotse manifest of cuts or recordings, but is not: {error}.") from None
