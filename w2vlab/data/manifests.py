"""Prepared manifests: a corpus scanned once, its usable utterances written to the cache."""

from __future__ import annotations

import hashlib
import json
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
from lhotse.utils import fastcopy
from rich.progress import track

from w2vlab.data.audio_files import UnusableAudioError
from w2vlab.data.cache import make_writable
from w2vlab.data.listing import Entry, fingerprint, list_entries, whole
from w2vlab.data.probing import EXTENSIONS, AudioInfo, probe
from w2vlab.data.splitting import position
from w2vlab.data.tally import Tally
from w2vlab.data.utterances import BYTES
from w2vlab.types import SAMPLE_RATE, Seconds
from w2vlab.wording import count

ROUNDING: Seconds = 0.025
"""How much shorter audio may be than its manifest says without a word: manifests round."""

TOLERANCE: Seconds = 0.5
"""How much shorter audio may be than its manifest says to be used, as far as it goes; as lhotse has it."""

_KEPT: Seconds = 30 * 24 * 3600
"""For how long a manifest of an earlier state of a corpus stays without use; a run may go on after a while."""


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
            kinds = ", ".join(sorted(ending.strip(".") for ending in EXTENSIONS))
            found = f"none of {len(entries)} can be used: {skipped}" if skipped else f"there is no audio file ({kinds})"
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
    return read_manifest(source, cache, state)


def remarks(corpus: str, left_out: Tally, notes: Tally) -> list[str]:
    """Returns a line for what was left out of a corpus, and one for what is converted, where there is any."""
    lines = [f"of {corpus}, left out {count(left_out.total, 'utterance')}: {left_out}"] if left_out else []
    return [*lines, f"of {corpus}, {notes}"] if notes else lines


_told: set[str] = set()


def first_told(manifest: Manifest) -> bool:
    """Tells whether nothing was said of a manifest in this process, and remembers that now something is."""
    first = manifest.fingerprint not in _told
    _told.add(manifest.fingerprint)
    return first


def advice_to_cut(corpus: str, cuts: Path, max_seconds: Seconds) -> str:
    """Returns how to have all of long recordings heard."""
    cut = f'CutSet.from_file("{cuts}").cut_into_windows({max_seconds:g}).to_file("windows.jsonl.gz")'
    return (
        f"of {corpus}, an epoch hears less than a quarter: one window of `max_seconds` of each long recording. "
        f"To hear all, cut them: python -c 'from lhotse import CutSet; {cut}', then --data.corpus=windows.jsonl.gz"
    )


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
            cut, missing = result
            cuts.append(cut)
            if (cut.num_channels or 1) > 1:
                notes.add("have several channels and are mixed to mono", entry.id)
            if cut.sampling_rate < SAMPLE_RATE:
                notes.add(f"are upsampled from less than {SAMPLE_RATE} Hz", entry.id)
            if missing > ROUNDING:
                notes.add(f"are up to {TOLERANCE} s shorter than their manifest says", entry.id)
    return cuts


def _examine(entry: Entry) -> tuple[DataCut, Seconds] | str:
    """Returns the utterance as a cut and what it is short of its manifest, or the reason why it cannot be used."""
    if entry.reason is not None:
        return entry.reason
    try:
        infos = [probe(path) for path in entry.paths]
        cut, missing = _whole_file(entry, infos[0]) if entry.cut is None else _checked_cut(entry.cut, infos)
        # A file that is replaced by another one of the same length has another size.
        cut.custom = {**(cut.custom or {}), BYTES: [path.stat().st_size for path in entry.paths]}
        return cut, missing
    except UnusableAudioError as error:
        return str(error)
    except FileNotFoundError:  # it was there a moment ago
        return "missing"


def _whole_file(entry: Entry, info: AudioInfo) -> tuple[DataCut, Seconds]:
    seconds = info.num_samples / info.sampling_rate
    promised = info.num_samples if entry.num_samples is None else entry.num_samples
    recording = Recording(
        id=entry.id,
        sources=[AudioSource("file", channels=list(range(info.num_channels)), source=str(entry.paths[0]))],
        sampling_rate=info.sampling_rate,
        num_samples=info.num_samples,
        duration=seconds,
    )
    return whole(recording), _missing(promised / info.sampling_rate, seconds)


def _checked_cut(cut: DataCut, infos: list[AudioInfo]) -> tuple[DataCut, Seconds]:
    recording = cut.recording
    assert recording is not None, "the listing lets no other cut through"
    if cut.duration <= 0:
        raise UnusableAudioError("without samples")
    # A transform such as a change of speed changes the duration; lhotse checks those when it reads.
    if infos and not recording.transforms:
        recording = _as_found(recording, infos)
    missing = _missing(cut.end, recording.duration)
    if recording.duration <= cut.start:
        raise UnusableAudioError("shorter than the manifest says")
    duration = min(cut.duration, recording.duration - cut.start)
    return fastcopy(cut, recording=recording, duration=duration), missing


def _as_found(recording: Recording, infos: list[AudioInfo]) -> Recording:
    """Returns a recording with the length and the rate that its files have, not those of its manifest."""
    rates = {info.sampling_rate for info in infos}
    if len(rates) > 1:
        raise UnusableAudioError("with files of several sampling rates")
    rate, num_samples = rates.pop(), min(info.num_samples for info in infos)
    _missing(recording.duration, num_samples / rate)
    return fastcopy(recording, sampling_rate=rate, num_samples=num_samples, duration=num_samples / rate)


def _missing(promised: Seconds, found: Seconds) -> Seconds:
    """Returns by how much audio is shorter than promised, at least 0."""
    missing = max(0.0, promised - found)
    if missing > TOLERANCE:
        raise UnusableAudioError("shorter than the manifest says")
    return missing
