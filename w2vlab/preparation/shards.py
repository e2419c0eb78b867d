"""Shards of audio in the layout of lhotse Shar: planned from lengths, written by any process."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from lhotse.audio import AudioSource, Recording

from w2vlab.data.audio.audio_files import UnusableAudioError
from w2vlab.data.shards.found import BYTES, GAIN, MEMBER, PLACE, SHARD
from w2vlab.data.shards.index_file import VERSION
from w2vlab.preparation.audio import EncodedAudio, encode_flac
from w2vlab.preparation.folder import SHARDS
from w2vlab.preparation.pool import Advance
from w2vlab.preparation.utterances import PlainCut, UtteranceFile, as_cut, read_range
from w2vlab.types import SAMPLE_RATE, Seconds
from w2vlab.utils.files import replace_atomically, size_of, write_atomically
from w2vlab.utils.plain_data import read_json

_OF_SHARDS = (BYTES, SHARD, MEMBER, PLACE, GAIN)
"""Custom fields of a cut that are about the shard that it comes from."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to write.

    Attributes:
        number: Its number.
        source: The file of utterances.
        start: First byte of its utterances in that file.
        stop: End, excluded.
        utterances: Their number.
        folder: The folder of shards.
        state: The folder of records.
    """

    number: int
    source: Path
    start: int
    stop: int
    utterances: int
    folder: Path
    state: Path

    @property
    def cuts(self) -> Path:
        """The manifest of the shard."""
        return self.folder / f"cuts.{self.number:06d}.jsonl.gz"

    @property
    def recording(self) -> Path:
        """The audio of the shard."""
        return self.folder / f"recording.{self.number:06d}.tar"

    @property
    def record(self) -> Path:
        """What is known of the shard, written when it is complete."""
        return self.state / f"shard-{self.number:06d}.json"


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """A complete shard.

    Attributes:
        utterances: Utterances in it; if 0, there are no files.
        seconds: Their audio.
        bytes: Size of the audio.
        cuts_bytes: Size of the manifest.
        sha256: Checksum of the audio.
        cuts_sha256: Checksum of the manifest.
        bits: Number of utterances by bits of a sample.
        gains: Utterances with a gain.
        failed: The reason for each utterance that was left out.
    """

    utterances: int
    seconds: Seconds
    bytes: int
    cuts_bytes: int
    sha256: str
    cuts_sha256: str
    bits: Mapping[str, int] = field(default_factory=dict)
    gains: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)


def plan_shards(
    utterances: UtteranceFile, most: int, most_seconds: Seconds, folder: Path, state: Path
) -> list[ShardTask]:
    """Divides utterances into shards, in their order.

    Args:
        utterances: The utterances.
        most: Most utterances in a shard.
        most_seconds: Most audio in a shard, unless one utterance has more.
        folder: The folder of the shards.
        state: The folder of their records.
    """
    bounds, seconds = [0], 0.0
    for index, duration in enumerate(utterances.durations.tolist()):
        if index > bounds[-1] and (index - bounds[-1] == most or seconds + duration > most_seconds):
            bounds.append(index)
            seconds = 0.0
        seconds += duration
    bounds.append(len(utterances))
    offsets = utterances.offsets.tolist()
    return [
        ShardTask(number, utterances.path, offsets[first], offsets[last], last - first, folder, state)
        for number, (first, last) in enumerate(pairwise(bounds))
    ]


def read_record(task: ShardTask) -> ShardRecord | None:
    """Returns the record of a shard if it is complete; otherwise None."""
    try:
        record = ShardRecord(**read_json(task.record))
    except (OSError, ValueError, TypeError):  # missing or damaged: the shard is written again
        return None
    sizes = (size_of(task.recording), size_of(task.cuts))
    return record if sizes == (record.bytes, record.cuts_bytes) or not record.utterances else None


def write_shard(task: ShardTask, advance: Advance) -> tuple[int, ShardRecord]:
    """Writes a shard, and its record last. The same utterances give the same bytes.

    Args:
        task: The shard.
        advance: Receives the seconds that are written or left out.

    Returns:
        The number of the shard, and its record.

    Raises:
        OSError: It cannot be written.
    """
    failed: dict[str, str] = {}
    bits: dict[str, int] = {}
    cuts: list[str] = []
    seconds, gains = 0.0, 0
    task.record.unlink(missing_ok=True)
    with replace_atomically(task.recording, sync=True) as unfinished, unfinished.open("wb") as file:
        audio_hash = _HashingFile(file)
        with tarfile.open(fileobj=audio_hash, mode="w|") as tar:  # type: ignore[call-overload]
            for plain in read_range(task.source, task.start, task.stop):
                try:
                    _check_name(plain["id"])
                    encoded = encode_flac(as_cut(plain), task.state)
                except UnusableAudioError as problem:
                    failed[plain["id"]] = str(problem)
                else:
                    with encoded.file:
                        cut = _shard_cut(plain, encoded)
                        _add(tar, f"{cut['id']}.flac", encoded.file, encoded.num_bytes)
                    _add_json(tar, f"{cut['id']}.json", cut["recording"])
                    cuts.append(json.dumps(cut, ensure_ascii=False))
                    seconds += cut["duration"]
                    bits[str(encoded.bits)] = bits.get(str(encoded.bits), 0) + 1
                    gains += encoded.gain != 1
                advance(plain["duration"])
    sha256, cuts_sha256 = audio_hash.digest(), ""
    if cuts:
        with replace_atomically(task.cuts, sync=True) as unfinished:
            cuts_sha256 = write_lines(unfinished, cuts)
    else:
        task.recording.unlink()
        task.cuts.unlink(missing_ok=True)
    record = ShardRecord(
        utterances=len(cuts),
        seconds=round(seconds, 6),
        bytes=size_of(task.recording) or 0,
        cuts_bytes=size_of(task.cuts) or 0,
        sha256=sha256 if cuts else "",
        cuts_sha256=cuts_sha256,
        bits=bits,
        gains=gains,
        failed=failed,
    )
    write_atomically(task.record, json.dumps(asdict(record), ensure_ascii=False), sync=True)
    return task.number, record


def index_of(tasks: Sequence[ShardTask], records: Sequence[ShardRecord]) -> str:
    """Returns the text of the list of shards, with paths relative to the folder that it is in."""
    shards: list[dict[str, Any]] = []
    for task, record in zip(tasks, records, strict=True):
        if record.utterances:
            shards.append(
                {
                    "cuts": f"{SHARDS}/{task.cuts.name}",
                    "recording": f"{SHARDS}/{task.recording.name}",
                    "utterances": record.utterances,
                    "seconds": record.seconds,
                    "bytes": record.bytes,
                    "cuts_bytes": record.cuts_bytes,
                    "sha256": record.sha256,
                    "cuts_sha256": record.cuts_sha256,
                }
            )
    lines = ",\n".join(f"  {json.dumps(shard)}" for shard in shards)
    return f'{{"version": {VERSION}, "sampling_rate": {SAMPLE_RATE}, "shards": [\n{lines}\n]}}\n'


def write_lines(path: Path, lines: Sequence[str]) -> str:
    """Writes compressed lines, and returns their checksum. The same lines give the same bytes."""
    with path.open("wb") as file:
        hashing = _HashingFile(file)
        # Without a name and a time.
        with gzip.GzipFile(filename="", mode="wb", fileobj=hashing, mtime=0) as compressed:
            for line in lines:
                compressed.write(f"{line}\n".encode())
        return str(hashing.digest())


def _shard_cut(plain: PlainCut, encoded: EncodedAudio) -> PlainCut:
    """Returns the cut of a whole recording in a shard."""
    name, seconds = plain["id"], encoded.num_samples / SAMPLE_RATE
    recording = Recording(
        id=name,
        sources=[AudioSource("shar", [0], "")],
        sampling_rate=SAMPLE_RATE,
        num_samples=encoded.num_samples,
        duration=seconds,
    )
    custom = {name: value for name, value in plain.get("custom", {}).items() if name not in _OF_SHARDS}
    if encoded.gain != 1:
        custom[GAIN] = encoded.gain
    return {
        "id": name,
        "start": 0.0,
        "duration": seconds,
        "channel": 0,
        "supervisions": [{**one, "recording_id": name, "channel": 0} for one in plain.get("supervisions", ())],
        "recording": recording.to_dict(),
        **({"custom": custom} if custom else {}),
        "type": "MonoCut",
    }


def _check_name(name: str) -> None:
    """Checks that lhotse finds the utterance by the name of its file."""
    file = Path(f"{name}.flac")
    if str(file.parent / file.stem) != name:
        raise UnusableAudioError("with an id that is no normal path")


def _add(tar: tarfile.TarFile, name: str, file: IO[bytes], size: int) -> None:
    info = tarfile.TarInfo(name)  # without owner and time
    info.size = size
    tar.addfile(info, file)


def _add_json(tar: tarfile.TarFile, name: str, content: Mapping[str, Any]) -> None:
    data = (json.dumps(content, ensure_ascii=False) + "\n").encode()
    _add(tar, name, io.BytesIO(data), len(data))


class _HashingFile:
    """A file to write to that computes its checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> str:
        return self._hash.hexdigest()
