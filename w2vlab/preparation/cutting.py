"""Cuts long recordings, evenly or where nobody speaks; resumable, by any number of processes."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lhotse.cut import Cut

from w2vlab.data.audio.audio_files import UnusableAudioError
from w2vlab.data.batches.crops import Window
from w2vlab.data.batches.reading import read_usable
from w2vlab.data.corpora.splitting import position
from w2vlab.data.corpora.utterances import num_samples
from w2vlab.preparation.pool import Advance
from w2vlab.preparation.settings import Split
from w2vlab.preparation.utterances import PlainCut, UtteranceFile, as_cut, read_range, write_utterances
from w2vlab.preparation.voice import Audio, Segment, pieces_of_speech, speech_probabilities, speech_segments
from w2vlab.types import SAMPLE_RATE, Seconds
from w2vlab.utils.files import replace_atomically, size_of, write_atomically
from w2vlab.utils.plain_data import read_json

GRID: Seconds = 0.04
"""Pieces begin and end at multiples, which are whole samples at every common sampling rate."""

NO_SPEECH = "without speech"

_BLOCK_SECONDS: dict[Split, Seconds] = {"even": 36_000.0, "vad": 600.0}
"""Audio of a task: what is done again after an interruption; a detector takes about 20 s for 600 s."""

_BLOCK_UTTERANCES = 5000
_READ = 60 * SAMPLE_RATE


@dataclass(frozen=True)
class CutTask:
    """Utterances to cut.

    Attributes:
        number: Number of the task.
        source: The file of utterances.
        start: First byte of the utterances in that file.
        stop: End, excluded.
        max_seconds: Longest piece.
        split: Where to cut.
        state: The folder of pieces and records.
    """

    number: int
    source: Path
    start: int
    stop: int
    max_seconds: Seconds
    split: Split
    state: Path

    @property
    def pieces(self) -> Path:
        """File of the pieces."""
        return self.state / f"pieces-{self.number:06d}.jsonl"

    @property
    def record(self) -> Path:
        """What is known about them, written when they are complete."""
        return self.state / f"pieces-{self.number:06d}.json"


@dataclass(kw_only=True)
class CutRecord:
    """What was cut.

    Attributes:
        bytes: Size of the file of pieces.
        recordings: Recordings that were cut.
        seconds: Their audio.
        pieces: Their pieces.
        kept_seconds: The audio of the pieces.
        lost_texts: Supervisions with a text that lie in no single piece.
        failed: The reason for each recording that was left out.
    """

    bytes: int = 0
    recordings: int = 0
    seconds: Seconds = 0.0
    pieces: int = 0
    kept_seconds: Seconds = 0.0
    lost_texts: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, other: CutRecord) -> None:
        """Adds the figures of another part."""
        for name in ("bytes", "recordings", "seconds", "pieces", "kept_seconds", "lost_texts"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failed.update(other.failed)

    def describe(self) -> dict[str, Any]:
        """Returns the figures as plain data."""
        return {
            "recordings": self.recordings,
            "hours": round(self.seconds / 3600, 6),
            "pieces": self.pieces,
            "hours_of_pieces": round(self.kept_seconds / 3600, 6),
            "seconds_dropped": round(self.seconds - self.kept_seconds, 3),
            "texts_dropped": self.lost_texts,
        }


def plan_cutting(utterances: UtteranceFile, max_seconds: Seconds, split: Split, state: Path) -> list[CutTask]:
    """Divides utterances into tasks."""
    tasks: list[CutTask] = []
    first, seconds = 0, 0.0
    for index, duration in enumerate(utterances.durations.tolist(), start=1):
        seconds += duration
        if seconds >= _BLOCK_SECONDS[split] or index - first == _BLOCK_UTTERANCES or index == len(utterances):
            start, stop = utterances.offsets[[first, index]].tolist()
            tasks.append(CutTask(len(tasks), utterances.path, start, stop, max_seconds, split, state))
            first, seconds = index, 0.0
    return tasks


def read_cut_record(task: CutTask) -> CutRecord | None:
    """Returns what is known about a task that is complete; otherwise None."""
    try:
        record = CutRecord(**read_json(task.record))
    except (OSError, ValueError, TypeError):  # missing or damaged
        return None
    return record if size_of(task.pieces) == record.bytes else None


def cut_utterances(task: CutTask, advance: Advance) -> tuple[int, CutRecord]:
    """Writes the pieces of some utterances; those that are short enough stay as they are.

    Raises:
        OSError: They cannot be written.
    """
    record = CutRecord()
    with replace_atomically(task.pieces, sync=True) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for plain in read_range(task.source, task.start, task.stop):
            pieces = [plain] if plain["duration"] <= task.max_seconds else list(_pieces(plain, task, record))
            for piece in pieces:
                file.write(json.dumps(piece, ensure_ascii=False) + "\n")
            advance(plain["duration"])
    record.bytes = size_of(task.pieces) or 0
    write_atomically(task.record, json.dumps(asdict(record), ensure_ascii=False), sync=True)
    return task.number, record


def _pieces(plain: PlainCut, task: CutTask, record: CutRecord) -> Iterator[PlainCut]:
    cut = as_cut(plain)
    try:
        segments = (even_segments if task.split == "even" else find_segments)(cut, task.max_seconds)
    except UnusableAudioError as problem:
        record.failed[cut.id] = str(problem)
        return
    if not segments:
        record.failed[cut.id] = NO_SPEECH
        return
    record.recordings += 1
    record.seconds += cut.duration
    texts = 0
    for start, end in segments:
        piece = cut.truncate(offset=start, duration=end - start, keep_excessive_supervisions=False)
        piece = piece.with_id(piece_id(cut.id, start, end))
        record.pieces += 1
        record.kept_seconds += end - start
        texts += sum(bool(one.text) for one in piece.supervisions)
        yield _with_speaker(piece, cut)
    record.lost_texts += max(0, sum(bool(one.text) for one in cut.supervisions) - texts)


def _with_speaker(piece: Cut, whole: Cut) -> PlainCut:
    """Returns a piece as plain data; if it has lost its supervision, it keeps the speaker and language."""
    plain: PlainCut = piece.to_dict()
    if not piece.supervisions and len(whole.supervisions) == 1:
        one = whole.supervisions[0].to_dict()
        known = {name: one[name] for name in ("speaker", "language", "gender") if one.get(name)}
        if known:
            base = {name: one[name] for name in ("recording_id", "channel")}
            plain["supervisions"] = [
                {**base, "id": piece.id, "start": 0.0, "duration": round(piece.duration, 8), **known}
            ]
    return plain


def piece_id(name: str, start: Seconds, end: Seconds) -> str:
    """Returns the id of a piece: that of its recording, and where it begins and ends in milliseconds."""
    return f"{name}-{round(start * 1000):07d}-{round(end * 1000):07d}"


def even_segments(cut: Cut, max_seconds: Seconds) -> list[Segment]:
    """Returns segments of about equal length, as few as possible."""
    # In units of the grid, so that rounding makes none too long.
    total, most = math.ceil(cut.duration / GRID - 1e-6), max(1, math.floor(max_seconds / GRID + 1e-6))
    number = -(-total // most)
    bounds = [round(index * total // number * GRID, 3) for index in range(number)]
    return list(zip(bounds, [*bounds[1:], cut.duration], strict=True))


def find_segments(cut: Cut, max_seconds: Seconds) -> list[Segment]:
    """Returns segments of speech of up to `max_seconds`.

    Raises:
        UnusableAudioError: The audio cannot be read.
    """
    probabilities = speech_probabilities(_blocks(cut))
    speech = speech_segments(probabilities, cut.duration)
    found: list[Segment] = []
    for start, end in pieces_of_speech(speech, probabilities, max_seconds - 2 * GRID):
        begin, stop = math.floor(start / GRID + 1e-6) * GRID, math.ceil(end / GRID - 1e-6) * GRID
        begin = max(begin, found[-1][1]) if found else begin
        found.append((round(begin, 3), min(round(stop, 3), cut.duration)))
    return found


def _blocks(cut: Cut) -> Iterator[Audio]:
    length = num_samples(cut)
    for start in range(0, length, _READ):
        yield read_usable(cut, Window(start, min(_READ, length - start)))


def join_pieces(tasks: list[CutTask], path: Path) -> UtteranceFile:
    """Joins the pieces of all tasks, in the order of `splitting.position`.

    Raises:
        OSError: They cannot be written.
    """
    unsorted = path.with_name(f"{path.name}.unsorted")
    positions, offsets = array("d"), array("q")
    with unsorted.open("wb") as file:
        for task in tasks:
            for line in task.pieces.open("rb"):
                positions.append(position(json.loads(line)["id"]))
                offsets.append(file.tell())
                file.write(line)
    with unsorted.open("rb") as lines:

        def ordered() -> Iterator[PlainCut]:
            last = ""
            for index in np.argsort(positions, kind="stable").tolist():
                lines.seek(offsets[index])
                piece: PlainCut = json.loads(lines.readline())
                if piece["id"] == last:
                    raise ValueError(f"`source` must not have an utterance with the id of a piece, but has {last}.")
                last = piece["id"]
                yield piece

        joined = write_utterances(path, ordered())
    unsorted.unlink()
    return joined
