"""Prepared manifests: a corpus scanned once, its usable utterances written to the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lhotse.audio import AudioSource, Recording
from lhotse.cut import CutSet
from lhotse.cut.data import DataCut
from rich.progress import track

from w2vlab.data.cache import make_writable
from w2vlab.data.listing import Entry, fingerprint, list_entries, whole
from w2vlab.data.probing import AudioInfo, UnusableAudioError, probe
from w2vlab.data.splitting import position
from w2vlab.data.tally import Tally
from w2vlab.data.utterances import BYTES
from w2vlab.types import SAMPLE_RATE, Seconds
from w2vlab.wording import count

DURATION_TOLERANCE: Seconds = 0.025
"""How much shorter a file may be than a lhotse manifest says: such manifests round."""

_KEPT: Seconds = 30 * 24 * 3600
"""For how long a manifest of an earlier state of a corpus stays without use; a run may go on after a while."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """A prepared corpus.

    Attributes:
        cuts: The usable utterances, a lhotse manifest ordered by `splitting.position`: an order like a shuffled one
            that depends on nothing but the ids.
        fingerprint: State of the corpus that was scanned.
        skipped: What was left out, by reason.
        notes: What will be converted on reading, by kind.
    """

    cuts: Path
    fingerprint: str
    skipped: Tally
    notes: Tally


def read_manifest(source: Path, cache: Path, state: str | None = None) -> Manifest:
    """Returns a prepared manifest of `source`.

    Args:
        source: The corpus.
        cache: Where prepared manifests are.
        state: The fingerprint of the one that is wanted; None for the one that was asked for last.

    Raises:
        RuntimeError: It was never prepared, or is no longer there.
    """
    folder = _folder(source, cache)
    reports = list(folder.glob("report-*.json")) if state is None else [folder / f"report-{state}.json"]
    report = max(filter(Path.is_file, reports), key=lambda path: path.stat().st_mtime_ns, default=None)
    if report is None:
        raise RuntimeError(f"{source} must be prepared before it is used, but is not; call `prepare_data()` first.")
    content = json.loads(report.read_text())
    fingerprint = content["fingerprint"]
    return Manifest(
        folder / f"cuts-{fingerprint}.jsonl", fingerprint, Tally(**content["skipped"]), Tally(**content["notes"])
    )


def prepare_manifest(source: Path, cache: Path) -> Manifest:
    """Scans `source` and writes its manifest, unless one of the same files is there.

    A manifest is never changed: its fingerprint is in its name, and a run reads the one that it began with. Those that
    no run has read or begun with for 30 days are removed when there is a new one.

    Raises:
        ValueError: The corpus is malformed or holds nothing usable, or the cache is not writable.
    """
    skipped = Tally()
    entries = list_entries(source, skipped)
    state = fingerprint(source, entries)
    folder = _folder(source, cache)
    report = folder / f"report-{state}.json"
    if not report.is_file():
        make_writable(folder)
        notes = Tally()
        cuts = _scan(entries, skipped, notes)
        if not cuts:
            found = f"none of {len(entries)} can be used: {skipped}" if skipped else "there is no audio file"
            raise ValueError(f"`corpus` must hold at least one usable utterance, but in {source} {found}.")
        cuts.sort(key=lambda cut: position(cut.id))
        # The report vouches for the cuts, so it comes last: an interrupted write is scanned again.
        _replace(folder / f"cuts-{state}.jsonl", cuts)
        content = {"fingerprint": state, "skipped": asdict(skipped), "notes": asdict(notes)}
        temporary = folder / f".report-{os.getpid()}.json"
        temporary.write_text(json.dumps(content))
        temporary.replace(report)
        _remove_unused(folder)
    with suppress(OSError):  # a cache may be read-only
        now = time.time_ns()  # finer than the time that the system gives to files
        os.utime(report, ns=(now, now))
    manifest = read_manifest(source, cache, state)
    if manifest.skipped:
        logger.warning("%s: left out %s: %s.", source, count(manifest.skipped.total, "utterance"), manifest.skipped)
    if manifest.notes:
        logger.warning("%s: %s.", source, manifest.notes)
    return manifest


def _folder(source: Path, cache: Path) -> Path:
    key = hashlib.blake2b(os.fsencode(source), digest_size=6).hexdigest()
    return cache / "manifests" / f"{source.stem}-{key}"


def _replace(path: Path, cuts: Iterable[DataCut]) -> None:
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.jsonl")
    CutSet.from_cuts(cuts).to_file(temporary)
    temporary.replace(path)


def _remove_unused(folder: Path) -> None:
    """Removes manifests of earlier states, with their reports; also those of earlier versions, `cuts.jsonl`."""
    for cuts in folder.glob("cuts*.jsonl"):
        files = [cuts, cuts.with_name(f"report{cuts.stem.removeprefix('cuts')}.json")]
        with suppress(OSError):
            if time.time() - max(path.stat().st_mtime for path in files if path.exists()) > _KEPT:
                for path in files:
                    path.unlink(missing_ok=True)


def _scan(entries: list[Entry], skipped: Tally, notes: Tally) -> list[DataCut]:
    cuts = []
    # Opening a file waits for the disk or the network, so threads help.
    with ThreadPoolExecutor(max_workers=8) as pool:
        results = pool.map(_examine, entries)
        for entry, result in track(zip(entries, results, strict=True), "Scanning audio", total=len(entries)):
            if isinstance(result, str):
                skipped.add(result, entry.id)
                continue
            cuts.append(result)
            if (result.num_channels or 1) > 1:
                notes.add("have several channels and are mixed to mono", entry.id)
            if result.sampling_rate < SAMPLE_RATE:
                notes.add(f"are upsampled from less than {SAMPLE_RATE} Hz", entry.id)
    return cuts


def _examine(entry: Entry) -> DataCut | str:
    """Returns the utterance as a cut, or the reason why it cannot be used."""
    try:
        infos = [probe(path) for path in entry.paths]
        cut = _whole_file(entry, infos[0]) if entry.cut is None else _checked_cut(entry.cut, infos)
        # A file that is replaced by another one of the same length has another size.
        cut.custom = {**(cut.custom or {}), BYTES: [path.stat().st_size for path in entry.paths]}
        return cut
    except UnusableAudioError as error:
        return str(error)
    except FileNotFoundError:  # it was there a moment ago
        return "missing"


def _whole_file(entry: Entry, info: AudioInfo) -> DataCut:
    if entry.num_samples is not None and info.num_samples < entry.num_samples:
        raise UnusableAudioError("shorter than the manifest says")
    recording = Recording(
        id=entry.id,
        sources=[AudioSource("file", channels=list(range(info.num_channels)), source=str(entry.paths[0]))],
        sampling_rate=info.sampling_rate,
        num_samples=info.num_samples,
        duration=info.num_samples / info.sampling_rate,
    )
    return whole(recording)


def _checked_cut(cut: DataCut, infos: list[AudioInfo]) -> DataCut:
    recording = cut.recording
    assert recording is not None, "the listing lets no other cut through"
    # A transform such as a change of speed changes the duration; lhotse checks those when it reads.
    untouched = not recording.transforms
    shortest = min((info.num_samples / info.sampling_rate for info in infos), default=recording.duration)
    if cut.duration <= 0:
        raise UnusableAudioError("without samples")
    if cut.end > recording.duration + DURATION_TOLERANCE or (
        untouched and shortest < recording.duration - DURATION_TOLERANCE
    ):
        raise UnusableAudioError("shorter than the manifest says")
    return cut
