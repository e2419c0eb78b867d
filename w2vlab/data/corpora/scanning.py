"""Scans audio files: their headers become lines of a prepared manifest, on all cores if there are many.

Worker processes import this module, so it imports neither PyTorch nor lhotse, which take seconds.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from w2vlab.data.audio.audio_files import UnusableAudioError
from w2vlab.data.audio.headers import AudioInfo
from w2vlab.data.audio.probing import measure
from w2vlab.data.corpora.splitting import position
from w2vlab.data.corpora.tally import Tally
from w2vlab.utils.limits import num_cores
from w2vlab.utils.parallel import WorkerDiedError, WorkerProcesses, map_waiting

if TYPE_CHECKING:
    from lhotse.cut.data import DataCut

    from w2vlab.batch import Hertz, Seconds

ROUNDING: Seconds = 0.025
"""How much shorter than in its manifest audio may be without being reported, because manifests round."""

TOLERANCE: Seconds = 0.5
"""How much shorter than in its manifest audio may be and still be used, with its true length; the same as lhotse's."""

CHUNK = 256
"""Utterances that are listed, scanned and written together."""

FILES_OF_A_PROCESS = 1_000
"""Files for which it is worth to start another process; fewer than two times as many are scanned in this process."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Apply(Protocol):
    """Calls a function, here or in a worker process."""

    def __call__(self, function: Callable[[Item], Result], item: Item, /) -> Result: ...


def _apply_here(function: Callable[[Item], Result], item: Item, /) -> Result:
    return function(item)


class Entry(NamedTuple):
    """One utterance of a corpus.

    Attributes:
        id: Unique id in the corpus.
        files: Its audio files; empty if the audio is not in local files.
        cut: The cut of a lhotse manifest; None for an audio file.
        num_samples: Number of samples by the manifest; None if the manifest has none.
        reason: Why the utterance is left out, if that is known from its name; None otherwise.
    """

    id: str
    files: tuple[str, ...]
    cut: DataCut | None = None
    num_samples: int | None = None
    reason: str | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The audio files as paths."""
        return tuple(map(Path, self.files))


Probed = list[tuple[AudioInfo, int]] | str
"""Properties and sizes of the files of an utterance, or why it cannot be used."""


@dataclass
class Block:
    """Utterances that were scanned, as lines of a manifest.

    Attributes:
        lines: The lines of the usable utterances.
        positions: `splitting.position` of each of them.
        skipped: The other utterances, by reason.
        notes: Utterances that are converted when they are read, by conversion.
    """

    lines: list[bytes] = field(default_factory=list)
    positions: array[float] = field(default_factory=lambda: array("d"))
    skipped: Tally = field(default_factory=lambda: Tally(names=[]))
    notes: Tally = field(default_factory=Tally)

    def add(self, name: str, line: str, info: AudioInfo, missing: Seconds, rate: Hertz) -> None:
        """Adds a usable utterance.

        Args:
            name: Its id.
            line: Its cut as JSON.
            info: Properties of its audio.
            missing: By how much its audio is shorter than in its manifest.
            rate: Audio of a lower sampling rate is noted as upsampled.
        """
        self.lines.append(f"{line}\n".encode())
        self.positions.append(position(name))
        if info.num_channels > 1:
            self.notes.add("have several channels and are mixed to mono", name)
        if info.sampling_rate < rate:
            self.notes.add(f"are upsampled from less than {rate} Hz", name)
        if missing > ROUNDING:
            self.notes.add(f"are up to {TOLERANCE} s shorter than their manifest says", name)


def scan_chunks(
    chunks: Iterable[list[Entry]],
    total: int,
    rate: Hertz,
    finish: Callable[[list[Entry], list[Probed]], Block],
) -> Iterator[Block]:
    """Scans the entries of a corpus, on all cores if there are many.

    Args:
        chunks: The entries.
        total: Number of entries.
        rate: As in `Block.add`.
        finish: Makes a block of entries that have a cut, and of the properties of their files; called in threads.

    Yields:
        The utterances of the entries, in their order.
    """
    workers = _start_workers(min(num_cores(), total // FILES_OF_A_PROCESS))
    if workers is None:
        for chunk in chunks:
            yield from _scan_chunk(chunk, _apply_here, rate, finish)
        return
    with workers:
        for blocks in workers.map(partial(_scan_chunk, apply=workers.apply, rate=rate, finish=finish), chunks):
            yield from blocks


def _start_workers(number: int) -> WorkerProcesses | None:
    if number < 2 or not sys.executable:
        return None
    try:
        return WorkerProcesses(number)
    except OSError:  # as if the limit on processes is reached
        return None


def _scan_chunk(
    chunk: list[Entry],
    apply: _Apply,
    rate: Hertz,
    finish: Callable[[list[Entry], list[Probed]], Block],
) -> list[Block]:
    """Scans entries by functions that `apply` calls in a worker process; a cut stays in this one."""
    if all(entry.cut is None for entry in chunk):
        return _apply(apply, partial(scan_files, rate=rate), chunk, _left_out)
    files = [entry.files for entry in chunk]
    if not any(files):
        return [finish(chunk, [[] for _ in files])]
    parts = _apply(apply, probe_all, files, _not_probed)
    return [finish(chunk, [probed for part in parts for probed in part])]


def _apply(
    apply: _Apply,
    function: Callable[[list[Item]], Result],
    items: list[Item],
    lost: Callable[[Item, str], Result],
) -> list[Result]:
    """Applies a function to items, and finds the item whose file ends a worker process, as by a fault in a library."""
    try:
        return [apply(function, items)]
    except WorkerDiedError as death:
        if len(items) == 1:
            return [lost(items[0], f"ending the process that reads it, with status {death.status}")]
    middle = len(items) // 2
    return _apply(apply, function, items[:middle], lost) + _apply(apply, function, items[middle:], lost)


def _left_out(entry: Entry, reason: str) -> Block:
    block = Block()
    block.skipped.add(reason, entry.id)
    return block


def _not_probed(files: tuple[str, ...], reason: str) -> list[Probed]:
    return [reason]


def probe_all(files: Sequence[tuple[str, ...]]) -> list[Probed]:
    """Returns the properties and sizes of the files of utterances, or why an utterance cannot be used."""
    return map_waiting(_probe, files)


def _probe(files: tuple[str, ...]) -> Probed:
    try:
        return [measure(path) for path in files]
    except UnusableAudioError as error:
        return str(error)


def scan_files(entries: Sequence[Entry], rate: Hertz) -> Block:
    """Scans utterances of one file each, and writes them as lhotse writes a cut of the recording of the file.

    Args:
        entries: The utterances.
        rate: As in `Block.add`.
    """
    block = Block()
    for entry, probed in zip(entries, map_waiting(_probe_entry, entries), strict=True):
        if isinstance(probed, str):
            block.skipped.add(probed, entry.id)
            continue
        ((info, size),) = probed
        expected = info.num_samples if entry.num_samples is None else entry.num_samples
        try:
            missing = missing_seconds(expected / info.sampling_rate, info.num_samples / info.sampling_rate)
        except UnusableAudioError as error:
            block.skipped.add(str(error), entry.id)
        else:
            block.add(entry.id, line_of_file(entry.id, entry.files[0], info, size), info, missing, rate)
    return block


def _probe_entry(entry: Entry) -> Probed:
    return _probe(entry.files) if entry.reason is None else entry.reason


def line_of_file(name: str, path: str, info: AudioInfo, size: int) -> str:
    """Returns the cut of an audio file as JSON, the same text as lhotse's.

    Args:
        name: Id of the utterance.
        path: The file.
        info: Its properties.
        size: Its size in bytes.
    """
    quoted, seconds = _quote(name), repr(info.num_samples / info.sampling_rate)
    channels = [*range(info.num_channels)]
    mono = info.num_channels == 1
    return (
        f'{{"id": {quoted}, "start": 0.0, "duration": {seconds}, "channel": {0 if mono else channels}, '
        f'"supervisions": [], "recording": {{"id": {quoted}, "sources": [{{"type": "file", "channels": {channels}, '
        f'"source": {_quote(path)}}}], "sampling_rate": {info.sampling_rate}, "num_samples": {info.num_samples}, '
        f'"duration": {seconds}, "channel_ids": {channels}}}, "custom": {{"bytes": [{size}]}}, '
        f'"type": "{"MonoCut" if mono else "MultiCut"}"}}'
    )


_quote = json.JSONEncoder(ensure_ascii=False).encode


def missing_seconds(expected: Seconds, found: Seconds) -> Seconds:
    """Returns by how much audio is shorter than expected, at least 0.

    Raises:
        UnusableAudioError: It is shorter by more than `TOLERANCE`.
    """
    missing = max(0.0, expected - found)
    if missing > TOLERANCE:
        raise UnusableAudioError("shorter than the manifest says")
    return missing
