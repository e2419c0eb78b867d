"""Prepared manifests: a corpus is scanned once, and its usable utterances are written to the cache."""

from __future__ import annotations

import hashlib
import json
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from lhotse.audio import AudioSource, Recording
from lhotse.cut import CutSet
from lhotse.cut.data import DataCut
from lhotse.utils import fastcopy
from rich.progress import track

from w2vlab.data.audio.audio_files import UnusableAudioError
from w2vlab.data.audio.probing import EXTENSIONS, AudioInfo, probe
from w2vlab.data.corpora.cache import make_writable
from w2vlab.data.corpora.listing import Entry, cut_from_recording, fingerprint, list_entries
from w2vlab.data.corpora.splitting import position
from w2vlab.data.corpora.spool import Spool
from w2vlab.data.corpora.tally import Tally
from w2vlab.data.corpora.utterances import BYTES
from w2vlab.data.shards.found import Found
from w2vlab.data.shards.scanning import ShardScan
from w2vlab.data.shards.sources import Source, is_sharded
from w2vlab.types import SAMPLE_RATE, Seconds
from w2vlab.utils.messages import count

ROUNDING: Seconds = 0.025
"""How much shorter than in its manifest audio may be without being reported, because manifests round."""

TOLERANCE: Seconds = 0.5
"""How much shorter than in its manifest audio may be and still be used, with its true length; the same as lhotse's."""

_PROBED_AT_ONCE = 2048
"""Files that are probed while others of them are awaited: their entries are in memory."""

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
    """

    cuts: Path
    fingerprint: str
    skipped: Tally
    notes: Tally


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
    )


def prepare_manifest(source: Source, cache: Path) -> Manifest:
    """Scans `source` and writes its manifest, unless there is a manifest with the same fingerprint.

    A manifest is never changed, so that a run reads the same manifest from its beginning to its end; its fingerprint is
    part of its file name. When a new manifest is written, those that no run has used for 30 days are removed.

    Args:
        source: The corpus.
        cache: The cache folder.

    Raises:
        ValueError: The corpus is malformed or has no usable utterance, or the cache is not writable.
    """
    skipped = Tally()
    shards = ShardScan(source, cache) if is_sharded(source) else None
    if shards is None:
        assert isinstance(source, Path), "other sources are sharded"
        entries = list_entries(source, skipped)
        state = fingerprint(source, entries)
    else:
        entries, state = (), shards.fingerprint
    folder = _manifest_folder(source, cache)
    report = folder / f"report-{state}.json"
    if not report.is_file():
        make_writable(folder)
        notes = Tally()
        if shards is None:
            results, total = ((entry.id, result) for entry, result in _probe_all(entries)), len(entries)
            cuts = _scan(track(results, "Scanning audio", total=total), skipped, notes)
        else:
            found = track(shards, "Scanning shards", total=len(shards))
            cuts = _scan(((item.id, _check_found(item)) for items in found for item in items), skipped, notes)
        if not cuts:
            kinds = ", ".join(sorted(ending.strip(".") for ending in EXTENSIONS))
            why = f"none of {skipped.total} can be used: {skipped}" if skipped else f"there is no audio file ({kinds})"
            raise ValueError(f"`corpus` must have at least one usable utterance, but in {source} {why}.")
        # The report is written last, because a manifest is complete if it has a report: after an interruption the
        # corpus is scanned again.
        _write_cuts(folder / f"cuts-{state}.jsonl", cuts)
        content = {"fingerprint": state, "skipped": asdict(skipped), "notes": asdict(notes)}
        temporary = folder / f".report-{os.getpid()}.json"
        temporary.write_text(json.dumps(content))
        temporary.replace(report)
        _remove_unused(folder)
    with suppress(OSError):  # a cache may be read-only
        now = time.time_ns()  # has a finer resolution than the system's own modification times
        os.utime(report, ns=(now, now))
    return read_manifest(source, cache, state)


def remarks(corpus: str, left_out: Tally, notes: Tally) -> list[str]:
    """Returns log lines on a corpus: one for the utterances left out and one for conversions, if there are any."""
    lines = [f"of {corpus}, left out {count(left_out.total, 'utterance')}: {left_out}"] if left_out else []
    return [*lines, f"of {corpus}, {notes}"] if notes else lines


_reported: set[str] = set()


def is_first_report(manifest: Manifest) -> bool:
    """Returns True in the first call for a manifest in this process, so that its remarks are logged once."""
    first = manifest.fingerprint not in _reported
    _reported.add(manifest.fingerprint)
    return first


def windowing_advice(corpus: str, cuts: Path, max_seconds: Seconds) -> str:
    """Returns a log line with a command that cuts long recordings into windows, so that all of them are trained on."""
    cut = f'CutSet.from_file("{cuts}").cut_into_windows({max_seconds:g}).to_file("windows.jsonl.gz")'
    return (
        f"of {corpus}, an epoch uses less than a quarter: one window of `max_seconds` of each long recording. To use "
        f"all, cut the recordings: python -c 'from lhotse import CutSet; {cut}', then --data.corpus=windows.jsonl.gz"
    )


def _manifest_folder(source: Source, cache: Path) -> Path:
    key = hashlib.blake2b(os.fsencode(str(source)), digest_size=6).hexdigest()
    return cache / "manifests" / f"{source.stem}-{key}"


def _write_cuts(path: Path, cuts: Iterable[DataCut]) -> None:
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.jsonl")
    with CutSet.open_writer(temporary, overwrite=True) as writer:
        for cut in cuts:
            writer.write(cut)
    temporary.replace(path)


def _remove_unused(folder: Path) -> None:
    """Removes unused manifests and their reports, including `cuts.jsonl` of earlier versions of w2vlab."""
    for cuts in folder.glob("cuts*.jsonl"):
        files = [cuts, cuts.with_name(f"report{cuts.stem.removeprefix('cuts')}.json")]
        with suppress(OSError):
            if time.time() - max(path.stat().st_mtime for path in files if path.exists()) > _UNUSED_LIFETIME:
                for path in files:
                    path.unlink(missing_ok=True)


def _scan(
    results: Iterable[tuple[str, tuple[DataCut, Seconds] | str]], skipped: Tally, notes: Tally
) -> Sequence[DataCut]:
    """Returns the usable utterances, ordered by `splitting.position`."""
    cuts: Spool[DataCut] = Spool()
    positions = array("d")
    for name, result in results:
        if isinstance(result, str):
            skipped.add(result, name)
            continue
        cut, missing = result
        cuts.append(cut)
        positions.append(position(cut.id))
        if (cut.num_channels or 1) > 1:
            notes.add("have several channels and are mixed to mono", name)
        if cut.sampling_rate < SAMPLE_RATE:
            notes.add(f"are upsampled from less than {SAMPLE_RATE} Hz", name)
        if missing > ROUNDING:
            notes.add(f"are up to {TOLERANCE} s shorter than their manifest says", name)
    return cuts.reordered(np.argsort(positions, kind="stable").tolist())


def _check_found(found: Found) -> tuple[DataCut, Seconds] | str:
    """Returns an utterance of a shard and the seconds missing compared with its manifest, or why it cannot be used."""
    if found.cut is None:
        return found.reason
    try:
        return _check_cut(found.cut, [] if found.info is None else [found.info])
    except UnusableAudioError as error:
        return str(error)


def _probe_all(entries: Sequence[Entry]) -> Iterator[tuple[Entry, tuple[DataCut, Seconds] | str]]:
    # Threads, because opening files mostly waits for the disk or the network.
    with ThreadPoolExecutor(max_workers=8) as pool:
        for first in range(0, len(entries), _PROBED_AT_ONCE):
            some = entries[first : first + _PROBED_AT_ONCE]
            yield from zip(some, pool.map(_probe_entry, some), strict=True)


def _probe_entry(entry: Entry) -> tuple[DataCut, Seconds] | str:
    """Returns the utterance as a cut and the seconds missing compared with its manifest, or why it cannot be used."""
    if entry.reason is not None:
        return entry.reason
    try:
        infos = [probe(path) for path in entry.paths]
        cut, missing = _cut_of_file(entry, infos[0]) if entry.cut is None else _check_cut(entry.cut, infos)
        # File sizes are stored to notice a file that was replaced by another one of the same duration.
        cut.custom = {**(cut.custom or {}), BYTES: [path.stat().st_size for path in entry.paths]}
        return cut, missing
    except UnusableAudioError as error:
        return str(error)
    except FileNotFoundError:  # removed after it was probed
        return "missing"


def _cut_of_file(entry: Entry, info: AudioInfo) -> tuple[DataCut, Seconds]:
    seconds = info.num_samples / info.sampling_rate
    expected = info.num_samples if entry.num_samples is None else entry.num_samples
    recording = Recording(
        id=entry.id,
        sources=[AudioSource("file", channels=list(range(info.num_channels)), source=str(entry.paths[0]))],
        sampling_rate=info.sampling_rate,
        num_samples=info.num_samples,
        duration=seconds,
    )
    return cut_from_recording(recording), _missing_seconds(expected / info.sampling_rate, seconds)


def _check_cut(cut: DataCut, infos: list[AudioInfo]) -> tuple[DataCut, Seconds]:
    recording = cut.recording
    assert recording is not None, "the listing skips cuts without a recording"
    if cut.duration <= 0:
        raise UnusableAudioError("without samples")
    # Transforms such as speed perturbation change the duration; lhotse checks such recordings when it reads them.
    if infos and not recording.transforms:
        recording = _with_probed_length(recording, infos)
    missing = _missing_seconds(cut.end, recording.duration)
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
    _missing_seconds(recording.duration, num_samples / rate)
    return fastcopy(recording, sampling_rate=rate, num_samples=num_samples, duration=num_samples / rate)


def _missing_seconds(expected: Seconds, found: Seconds) -> Seconds:
    """Returns by how much audio is shorter than expected, at least 0.

    Raises:
        UnusableAudioError: It is shorter by more than `TOLERANCE`.
    """
    missing = max(0.0, expected - found)
    if missing > TOLERANCE:
        raise UnusableAudioError("shorter than the manifest says")
    return missing
