"""Small corpora in shards."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.shar import SharWriter

from tests.data.sounds import speech_like
from w2vlab.data.batches.crops import Window
from w2vlab.data.batches.reading import read_window
from w2vlab.data.corpora.utterances import Utterances

RATE = 16_000


def sound(number: int, seconds: float = 0.5, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Returns audio that differs from utterance to utterance."""
    return np.roll(speech_like(seconds, rate, channels), 37 * number, axis=0)


def write_shar(
    folder: Path, count: int = 10, per_shard: int = 4, kind: str = "flac", rate: int = RATE, channels: int = 1
) -> Path:
    """Writes a corpus in lhotse's Shar by its own writer, with the ids `u00`, `u01`, … and a transcript each."""
    audio = folder.parent / f"{folder.name}-audio"
    audio.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True)
    with SharWriter(folder, fields={"recording": kind}, shard_size=per_shard) as writer:
        for number in range(count):
            path = audio / f"u{number:02}.wav"
            soundfile.write(path, sound(number, 0.5 + number / 50, rate, channels), rate, subtype="PCM_16")
            cut = Recording.from_file(path).to_cut()
            label = SupervisionSegment(cut.id, cut.id, 0.0, cut.duration, 0, f"word {number}", custom={"x": 1})
            cut.supervisions = [label]
            writer.write(cut)
    return folder


def write_index(folder: Path, **changes: object) -> Path:
    """Writes the index of a folder in Shar layout, as `w2vlab prepare --shards` does."""
    shards = []
    for cuts in sorted(folder.glob("cuts.*.jsonl.gz")):
        tar = folder / cuts.name.replace("cuts", "recording").replace("jsonl.gz", "tar")
        entry = {"utterances": sum(1 for _ in CutSet.from_file(cuts))}
        for key, path, prefix in (("cuts", cuts, "cuts_"), ("recording", tar, "")):
            data = path.read_bytes()
            entry |= {key: path.name, f"{prefix}bytes": len(data), f"{prefix}sha256": hashlib.sha256(data).hexdigest()}
        shards.append(entry | changes)
    index = folder / "shards.json"
    index.write_text(json.dumps({"version": 1, "sampling_rate": RATE, "shards": shards}))
    return index


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    """Writes a tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def encoded(number: int, kind: str = "flac", seconds: float = 0.5, rate: int = RATE) -> bytes:
    """Returns an audio file."""
    target = io.BytesIO()
    subtype = {"ogg": "VORBIS", "opus": "OPUS"}.get(kind)
    soundfile.write(target, sound(number, seconds, rate), rate, format="OGG" if subtype else kind, subtype=subtype)
    return target.getvalue()


def audio_of(manifest: Path) -> dict[str, np.ndarray]:
    """Reads all utterances of a prepared manifest whole."""
    return {cut.id: read_window(cut, Window(0, round(cut.duration * RATE))) for cut in Utterances(manifest, 1)}


def cut_off(path: Path, size: int) -> None:
    """Shortens a file."""
    path.write_bytes(path.read_bytes()[:size])


def headers(path: Path) -> list[tarfile.TarInfo]:
    """Returns the members of a tar."""
    with tarfile.open(path) as tar:
        return tar.getmembers()
