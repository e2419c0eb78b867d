"""Prepared manifests: a corpus is scanned once, and its usable utterances are written to the cache."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from lhotse.audio import Recording
from lhotse.cut.data import DataCut
from lhotse.utils import fastcopy
from rich.progress import Progress

from w2vlab.data.audio.audio_files import UnusableAudioError
from w2vlab.data.audio.probing import AudioInfo
from w2vlab.data.corpora.cache import make_writable, system_errors_in_words
from w2vlab.data.corpora.listing import list_corpus
from w2vlab.data.corpora.scanning import Block, Entry, Probed, missing_seconds, scan_chunks
from w2vlab.data.corpora.spool import Lines
from w2vlab.data.corpora.tally import Tally
from w2vlab.data.corpus_advice import about_folder
from w2vlab.data.shards.found import BYTES, Found
from w2vlab.data.shards.scanning import ShardScan
from w2vlab.data.shards.sources import Source, is_sharded
from w2vlab.types import SAMPLE_RATE, Seconds

_UNUSED_LIFETIME: Seconds = 30 * 24 * 3600
"""How long an unused manifest of an earlier state of a corpus is kept, for runs that are resumed later."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A prepared corpus.

    Attributes:
        cuts: Path of a lhotse manifest of the usable utterances, ordered by `splitting.position`: a shuffled order that
            depends on the ids alone.
        fingerprint: Hash of the files that were scanned.
        skipped: Utterances that were left out, by reason.
        notes: Utterances that are converted when they are read, by conversion.
        left_out: File with reason and id of each utterance that was left out; None if there is none.
    """

    cuts: Path
    fingerprint: str
    skipped: Tally
    notes: Tally
    left_out: Path | None = None


def read_manifest(source: Source, cache: Path, fingerprint: str | None = None) -> Manifest:
    """Returns a prepared manifest of `source`.

    Args:
        source: The corpus.
        cache: The cache folder.
        fingerprint: Fingerprint of the manifest; None for the one that was prepared or used last.

    Raises:
        RuntimeError: The manifest was never prepared, or has been removed.
    """
    folder = _manifest_folder(source, cache)
    reports = list(folder.glob("report-*.json")) if fingerprint is None else [folder / f"report-{fingerprint}.json"]
    report = max(filter(Path.is_file, reports), key=lambda path: path.stat().st_mtime_ns, default=None)
    if report is None:
        raise RuntimeError(f"{source} must be prepared before it is used, but is not; call `prepare_data()` first.")
    content = json.loads(report.read_text())
    found = content["fingerprint"]
    return Manifest(
        cuts=folder / f"cuts-{found}.jsonl",
        fingerprint=found,
        skipped=Tally(**content["skipped"]),
        notes=Tally(**content["notes"]),
        left_out=left_out if (left_out := folder / f"left-out-{found}.tsv").is_file() else None,
    )


def prepare_manifest(source: Source, cache: Path) -> Manifest:
    """Scans `source` and writes its manifest, unless there is a manifest with the same fingerprint.

    A manifest is never changed, so that a run reads the same manifest from its beginning to its end; its fingerprint is
    part of its file name. When a new manifest is written, those that no run has used for 30 days are removed.

    Args:
        source: The corpus.
        cache: The cache folder.

    Raises:
        ValueError: The corpus is malformed or has no usable utterance, or the cache is not writable or full.
    """
    with system_errors_in_words(_manifest_folder(source, cache)):
        return _prepare(source, cache)


def _prepare(source: Source, cache: Path) -> Manifest:
    skipped = Tally(names=[])
    scan = _ShardBlocks(ShardScan(source, cache)) if is_sharded(source) else _FileBlocks(source, skipped)
    state = scan.fingerprint
    folder = _manifest_folder(source, cache)
    report = folder / f"report-{state}.json"
    if not report.is_file():
        make_writable(folder)
        notes = Tally()
        if not _write_cuts(folder / f"cuts-{state}.jsonl", scan, skipped, notes):
            found = f"none of {skipped.total} can be used: {skipped}." if skipped else about_folder(source)
            raise ValueError(f"`corpus` must have at least one usable utterance, but in {source} {found}")
        # The report is written last, because a manifest is complete if it has a report: after an interruption the
        # corpus is scanned again.
        if skipped:
            with _replacing(folder / f"left-out-{state}.tsv") as file:
                file.write(skipped.as_lines().encode())
        content = {"fingerprint": state, "skipped": _as_plain(skipped), "notes": _as_plain(notes)}
        with _replacing(report) as file:
            file.write(json.dumps(content).encode())
        _remove_unused(folder)
    with suppress(OSError):  # a cache may be read-only
        now = time.time_ns()  # has a finer resolution than the system's own modification times
        os.utime(report, ns=(now, now))
    return read_manifest(source, cache, state)


_reported: set[str] = set()


def is_first_report(manifest: Manifest) -> bool:
    """Returns True in the first call for a manifest in this process, so that its remarks are logged once."""
    first = manifest.fingerprint not in _reported
    _reported.add(manifest.fingerprint)
    return first


def _as_plain(tally: Tally) -> dict[str, object]:
    return {"counts": tally.counts, "examples": tally.examples}


def _manifest_folder(source: Source, cache: Path) -> Path:
    key = hashlib.blake2b(os.fsencode(str(source)), digest_size=6).hexdigest()
    return cache / "manifests" / f"{source.stem}-{key}"


class _FileBlocks:
    """The scan of a corpus in files of their own.

    Args:
        source: The corpus.
        skipped: Counts the utterances that are known not to be usable before the scan.
    """

    def __init__(self, source: Source, skipped: Tally) -> None:
        assert isinstance(source, Path), "other sources are sharded"
        self._listing = list_corpus(source, skipped)
        self.fingerprint = self._listing.fingerprint
        self.total = self._listing.total
        self.unit = "audio"

    def __iter__(self) -> Iterator[tuple[Block, int]]:
        """Yields utterances and how many of `total` they are."""
        for block in scan_chunks(self._listing.chunks, self.total, SAMPLE_RATE, _finish):
            yield block, len(block.lines) + block.skipped.total


class _ShardBlocks:
    """The scan of a corpus in shards."""

    def __init__(self, scan: ShardScan) -> None:
        self._scan = scan
        self.fingerprint = scan.fingerprint
        self.total = len(scan)
        self.unit = "shards"

    def __iter__(self) -> Iterator[tuple[Block, int]]:
        """Yields the utterances of a shard, and 1."""
        for found in self._scan:
            block = Block()
            for item in found:
                _add_found(block, item)
            yield block, 1


def _write_cuts(path: Path, scan: _FileBlocks | _ShardBlocks, skipped: Tally, notes: Tally) -> int:
    """Scans the utterances, writes the usable ones, ordered by `splitting.position`, and returns their number."""
    with Lines(path.parent) as lines, Progress() as progress:
        task = progress.add_task(f"Scanning {scan.unit}", total=scan.total)
        positions: list[npt.NDArray[np.float64]] = []
        for block, done in scan:
            lines.extend(block.lines)
            positions.append(np.frombuffer(block.positions))
            skipped.include(block.skipped)
            notes.include(block.notes)
            progress.advance(task, done)
        if len(lines):
            order = np.argsort(np.concatenate(positions), kind="stable")
            with _replacing(path) as file:
                lines.write(map(int, order), file)
        return len(lines)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a new file that replaces the one at `path` when it is complete."""
    # Two nodes whose processes have the same number may write to a shared disk.
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(8)}{path.suffix}")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_unused(folder: Path) -> None:
    """Removes unused manifests and their reports, including `cuts.jsonl` of earlier versions of w2vlab."""
    for cuts in folder.glob("cuts*.jsonl"):
        state = cuts.stem.removeprefix("cuts")
        files = [cuts, cuts.with_name(f"report{state}.json"), cuts.with_name(f"left-out{state}.tsv")]
        with suppress(OSError):
            if time.time() - max(path.stat().st_mtime for path in files if path.exists()) > _UNUSED_LIFETIME:
                for path in files:
                    path.unlink(missing_ok=True)


def _finish(entries: list[Entry], results: list[Probed]) -> Block:
    """Returns the lines of cuts whose files have been probed."""
    block = Block()
    for entry, probed in zip(entries, results, strict=True):
        assert entry.cut is not None, "those without a cut are finished where they are probed"
        try:
            if isinstance(probed, str):
                raise UnusableAudioError(probed)
            cut, missing = _check_cut(entry.cut, [info for info, _ in probed])
        except UnusableAudioError as error:
            block.skipped.add(str(error), entry.id)
            continue
        # File sizes are stored to notice a file that was replaced by another one of the same duration.
        cut.custom = {**(cut.custom or {}), BYTES: [size for _, size in probed]}
        _add_cut(block, cut, missing)
    return block


def _add_found(block: Block, found: Found) -> None:
    """Adds an utterance of a shard, or counts why it cannot be used."""
    if found.cut is None:
        block.skipped.add(found.reason, found.id)
        return
    try:
        cut, missing = _check_cut(found.cut, [] if found.info is None else [found.info])
    except UnusableAudioError as error:
        block.skipped.add(str(error), found.id)
    else:
        _add_cut(block, cut, missing)


def _add_cut(block: Block, cut: DataCut, missing: Seconds) -> None:
    line = json.dumps(cut.to_dict(), ensure_ascii=False)
    block.add(cut.id, line, AudioInfo(cut.sampling_rate, 0, cut.num_channels or 1), missing, SAMPLE_RATE)


def _check_cut(cut: DataCut, infos: list[AudioInfo]) -> tuple[DataCut, Seconds]:
    recording = cut.recording
    assert recording is not None, "the listing skips cuts without a recording"
    if cut.duration <= 0:
        raise UnusableAudioError("without samples")
    # Transforms such as speed perturbation change the duration; lhotse checks such recordings when it reads them.
    if infos and not recording.transforms:
        recording = _with_probed_length(recording, infos)
    missing = missing_seconds(cut.end, recording.duration)
    if recording.duration <= cut.start:
        raise UnusableAudioError("shorter than the manifest says")
    duration = min(cut.duration, recording.duration - cut.start)
    return fastcopy(cut, recording=recording, duration=duration), missing


def _with_probed_length(recording: Recording, infos: list[AudioInfo]) -> Recording:
    """Returns the recording with the length and sampling rate of its files instead of those in its manifest."""
    rates = {info.sampling_rate for info in infos}
    if len(rates) > 1:
        raise UnusableAudioError("with files of several sampling rates")
    rate, num_samples = rates.pop(), min(info.num_samples for info in infos)
    missing_seconds(recording.duration, num_samples / rate)
    return fastcopy(recording, sampling_rate=rate, num_samples=num_samples, duration=num_samples / rate)
