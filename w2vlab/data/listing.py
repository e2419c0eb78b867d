"""What a corpus names: every utterance of a folder, a fairseq manifest or a lhotse manifest, before a look inside."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lhotse.audio import Recording, RecordingSet
from lhotse.cut import Cut, CutSet, MonoCut, MultiCut
from lhotse.cut.data import DataCut
from lhotse.serialization import load_manifest_lazy

from w2vlab.data.lines import read_lines
from w2vlab.data.probing import EXTENSIONS, is_not_read
from w2vlab.data.tally import Tally

SCAN = b"w2vlab-scan-4"
"""Changes with what a scan finds in the same files, so that what an older one has found is not taken for it."""


@dataclass(frozen=True)
class Entry:
    """One utterance as its corpus names it.

    Attributes:
        id: Unique in the corpus.
        paths: The audio files it needs; empty where the audio is no local file.
        cut: The part of the audio that a lhotse manifest asks for; None for whole files.
        num_samples: Samples that the manifest promises; None where it says nothing.
        reason: Why it is left out, where its name tells; None otherwise.
    """

    id: str
    paths: tuple[Path, ...]
    cut: DataCut | None = None
    num_samples: int | None = None
    reason: str | None = None


def list_entries(source: Path, skipped: Tally) -> list[Entry]:
    """Lists the utterances of `source`, ordered by id; those that cannot even be named are counted in `skipped`.

    Raises:
        ValueError: `source` is of no known kind, or is malformed.
    """
    if source.is_dir():
        found = _list_folder(source, skipped)
    elif source.suffix == ".tsv":
        found = _list_tsv(source)
    elif source.name.endswith((".jsonl", ".jsonl.gz")):
        found = _list_lhotse(source, skipped)
    else:
        raise ValueError(
            "`corpus` must be a folder of audio, a fairseq .tsv manifest or a lhotse .jsonl or .jsonl.gz manifest, "
            f"but is {source}."
        )
    entries: dict[str, Entry] = {}
    for entry in found:
        if entry.id in entries:
            skipped.add("listed twice", entry.id)
        elif not _is_text(entry.id):
            skipped.add("with a name that is not UTF-8", repr(entry.id))
        else:
            entries[entry.id] = entry
    return [entries[name] for name in sorted(entries)]


def fingerprint(source: Path, entries: list[Entry]) -> str:
    """Returns a key that changes when an utterance, a file's size or its time of change does."""
    digest = hashlib.blake2b(digest_size=16, person=SCAN)
    manifest = () if source.is_dir() else (source,)
    digest.update(repr([_stat(path) for path in manifest]).encode())
    for entry in entries:
        digest.update(repr((entry.id, entry.num_samples, [_stat(path) for path in entry.paths])).encode())
    return digest.hexdigest()


def whole(recording: Recording) -> DataCut:
    """Returns all of `recording` as a cut of the same id."""
    cut: DataCut = recording.to_cut()  # type: ignore[no-untyped-call]
    return cut


def _stat(path: Path) -> tuple[str, int, int]:
    name = os.fsencode(path).hex()
    try:
        status = path.stat()
    except OSError:
        return name, -1, -1
    return name, status.st_size, status.st_mtime_ns


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _list_folder(root: Path, skipped: Tally) -> Iterator[Entry]:
    def unreadable(error: OSError) -> None:
        skipped.add("folder that cannot be read", str(error.filename))

    visited = set()
    # Links are followed, for corpora are often linked together; remembering where one has been ends loops of them.
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=unreadable):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        for name in names:
            path = Path(folder, name)
            reason = is_not_read(path)
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
            # Mixtures and padding would have to be rendered before a window of them could be read.
            skipped.add("not a plain cut of a recording", item.id)
            continue
        if _runs_a_command(item.recording.to_dict()):
            skipped.add("the output of a shell command, which is not run", item.id)
            continue
        paths = tuple(Path(str(source.source)) for source in item.recording.sources if source.type == "file")
        yield Entry(item.id, paths, item.drop_features().drop_supervisions())


def _runs_a_command(plain: Any) -> bool:
    """Tells whether lhotse would run a command for a recording, or for one in its transforms (a reverberation)."""
    if isinstance(plain, dict):
        return plain.get("type") == "command" or any(map(_runs_a_command, plain.values()))
    return isinstance(plain, list | tuple) and any(map(_runs_a_command, plain))


def _read_lhotse(manifest: Path) -> Iterator[Cut]:
    try:
        items: Any = load_manifest_lazy(manifest)
        known = isinstance(items, CutSet | RecordingSet)
        if not known:
            raise ValueError("it holds neither")
        for item in items:
            yield whole(item) if isinstance(item, Recording) else item
    # lhotse's readers fail in their own ways on a file that is not theirs; all of them mean the same to its author.
    except Exception as error:
        raise ValueError(f"{manifest} must be a lhotse manifest of cuts or recordings, but is not: {error}.") from None
