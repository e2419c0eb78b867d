"""Features and codes as arrays of a lhotse manifest of cuts."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lhotse.array import Array, TemporalArray
from lhotse.audio import AudioSource, Recording
from lhotse.cut import MonoCut
from lhotse.features.base import Features

from w2vlab.data.audio.audio_files import UnusableAudioError
from w2vlab.data.audio.probing import probe
from w2vlab.extraction.sources import Stream
from w2vlab.extraction.writing.lists import with_ending, write_lines
from w2vlab.extraction.writing.shared import runs_of, whole_file
from w2vlab.extraction.writing.utterance import EncodedUtterance, Frames
from w2vlab.extraction.writing.writer import ShardWriter
from w2vlab.types import SAMPLE_RATE, Seconds
from w2vlab.units.description import COUNTS

CUTS = "cuts.jsonl.gz"
"""The manifest."""

ARRAYS = "arrays"
"""Folder of the arrays, with a folder a shard and a file an utterance and stream."""

_STORAGE = "numpy_files"
"""The storage of lhotse that needs no other package: a file of NumPy for each array."""

_DIGITS = 4


class LhotseWriter(ShardWriter):
    """Writes a manifest of cuts, `cuts.jsonl.gz`, and the arrays that it names.

    Vectors of one stream are the features of a cut (`cut.load_features()`). Codes, units, and the vectors of each of
    several streams are temporal arrays: `cut.load_codes()`, `cut.load_units()`, `cut.load_layer_6()`. With `collapse`,
    they are plain arrays of runs, and `cut.load_counts()` has their frames.

    A cut is as long as its frames, T times the stride, because lhotse computes the number of frames from the duration
    and repeats the last frame of features that have one less. Its recording is the audio file at 16 kHz, if it is one
    that can be read. The manifest has absolute paths; `CutSet.with_features_path_prefix` and `sed` change them. A cut
    without frames is as long as its audio, and has no array.
    """

    folders: ClassVar[tuple[str, ...]] = (ARRAYS,)

    def write(self, path: Path, utterances: Sequence[EncodedUtterance]) -> list[Path]:
        """Writes a shard: its arrays, then its part of the manifest; see `ShardWriter`."""
        folder = path.parent.absolute() / ARRAYS / path.name
        folder.mkdir(parents=True, exist_ok=True)
        cuts = [self._cut(utterance, folder / f"{number:06d}") for number, utterance in enumerate(utterances)]
        lines = (json.dumps(cut.to_dict(), ensure_ascii=False) for cut in cuts)
        return [write_lines(with_ending(path, ".jsonl"), lines)]

    def finish(self, out: Path, shards: Sequence[Sequence[Path]], description: Mapping[str, Any]) -> list[Path]:
        """Joins the manifests of all shards; see `ShardWriter`."""
        with (
            whole_file(out / CUTS) as unfinished,
            unfinished.open("wb") as file,
            # Without a name and a time, so that the same cuts give the same bytes.
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as lines,
        ):
            for shard in shards:
                lines.write(shard[0].read_bytes())
        return [out / CUTS]

    def _cut(self, utterance: EncodedUtterance, stem: Path) -> MonoCut:
        """Writes the arrays of an utterance, and returns its cut."""
        frames, start = utterance.num_frames, round(utterance.start, _DIGITS)
        duration = (frames * self._grid.stride if frames else utterance.num_samples) / SAMPLE_RATE
        recording = _recording(utterance)
        cut = MonoCut(id=utterance.id, start=start, duration=duration, channel=0, recording=recording)
        vectors = [stream for stream in self._streams if not stream.is_discrete]
        for stream in self._streams if frames else ():
            name = re.sub(r"\W", "_", stream.name)
            if self._collapse:
                codes, counts = runs_of(utterance.frames[stream.name])
                cut = cut.with_custom(name, _write(with_ending(stem, f".{name}"), codes))
                cut = cut.with_custom(COUNTS, _write(with_ending(stem, f".{COUNTS}"), counts))
                continue
            array = _write(with_ending(stem, f".{name}"), utterance.frames[stream.name])
            if vectors == [stream]:
                cut.features = self._features(stream, array, cut.recording_id if recording else utterance.id, cut)
            else:
                temporal = TemporalArray(array, temporal_dim=0, frame_shift=self._shift, start=start)
                cut = cut.with_custom(name, temporal)
        if utterance.path is not None and recording is None:
            cut = cut.with_custom("path", utterance.path)
        return cut

    @property
    def _shift(self) -> Seconds:
        return self._grid.stride / SAMPLE_RATE

    def _features(self, stream: Stream, array: Array, recording_id: str, cut: MonoCut) -> Features:
        return Features(
            type=f"w2vlab {stream.name}",
            num_frames=array.shape[0],
            num_features=stream.dim,
            frame_shift=self._shift,
            sampling_rate=SAMPLE_RATE,
            start=cut.start,
            duration=cut.duration,
            storage_type=_STORAGE,
            storage_path=array.storage_path,
            storage_key=array.storage_key,
            recording_id=recording_id,
            channels=0,
        )


def _write(path: Path, frames: Frames) -> Array:
    """Writes an array and returns its manifest."""
    file = with_ending(path, ".npy")
    with whole_file(file) as unfinished, unfinished.open("wb") as out:
        np.save(out, np.ascontiguousarray(frames), allow_pickle=False)
    shard = file.parent
    return Array(_STORAGE, str(shard.parent), f"{shard.name}/{file.name}", list(frames.shape))


def _recording(utterance: EncodedUtterance) -> Recording | None:
    """Returns the audio file as a recording; None if there is none that can be read."""
    if utterance.path is None or not Path(utterance.path).is_file():
        return None
    try:
        info = probe(Path(utterance.path))
    except UnusableAudioError:
        return None
    recording = Recording(
        id=utterance.id,
        sources=[AudioSource("file", list(range(info.num_channels)), str(Path(utterance.path).absolute()))],
        sampling_rate=info.sampling_rate,
        num_samples=info.num_samples,
        duration=info.num_samples / info.sampling_rate,
    )
    # Features and recording of a cut must have the same sampling rate; lhotse resamples when it reads.
    return recording if info.sampling_rate == SAMPLE_RATE else recording.resample(SAMPLE_RATE)
