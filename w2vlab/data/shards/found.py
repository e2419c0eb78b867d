"""An utterance as a shard has it, and the fields of its cut in a prepared manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lhotse.audio import AudioSource, Recording
from lhotse.cut.data import DataCut
from lhotse.supervision import SupervisionSegment
from lhotse.utils import fastcopy

from w2vlab.data.audio.probing import AudioInfo

BYTES = "bytes"
"""Custom field of a cut: sizes of the utterance's files, part of its key; empty if they are not known."""

SHARD = "shard"
"""Custom field of a cut: path or URL of the tar that has its audio."""

MEMBER = "member"
"""Custom field of a cut: name of its audio in the tar, without its suffix if that is not known at the scan."""

PLACE = "at"
"""Custom field of a cut: first byte and size of its audio in the tar, if they are known at the scan."""

GAIN = "gain"
"""Custom field of a cut: the factor by which its samples are multiplied after decoding."""


@dataclass(frozen=True)
class Found:
    """An utterance of a shard, or a loss.

    Attributes:
        id: Its id; of a loss that is of no utterance, the name of a file.
        cut: The utterance; None if it cannot be used.
        info: What the header of its audio says; None if that was not read.
        reason: Why it cannot be used.
        shard: Name of the shard that lacks it, if that is the reason.
    """

    id: str
    cut: DataCut | None = None
    info: AudioInfo | None = None
    reason: str = ""
    shard: str | None = None


def shard_of(cut: Any) -> str | None:
    """Returns path or URL of the tar that has the audio of a cut of a prepared manifest; None if that is in files."""
    shard = (getattr(cut, "custom", None) or {}).get(SHARD)
    return shard if isinstance(shard, str) else None


def iter_ids(cuts: Path) -> Iterator[str]:
    """Yields the ids of a prepared manifest of shards, those of one shard after the other, as they are read fastest.

    Args:
        cuts: The prepared manifest.
    """
    places = []
    with cuts.open(encoding="utf-8") as lines:
        for line in lines:
            content = json.loads(line)
            custom = content["custom"]
            places.append((custom[SHARD], custom.get(PLACE, [0])[0], content["id"]))
    yield from (name for _, _, name in sorted(places))


def with_audio_in_shard(cut: DataCut, tar: Path, fields: Mapping[str, Any]) -> DataCut:
    """Returns a cut whose audio is in a tar, with only what a prepared manifest needs.

    Args:
        cut: The cut; its own sources, effects and features are dropped.
        tar: The tar on this machine, or where its copy will be.
        fields: Custom fields.
    """
    recording = cut.recording
    assert recording is not None, "cuts without a recording are left out before"
    source = AudioSource("shar", channels=list(recording.channel_ids or ()), source=str(tar))
    recording = fastcopy(recording, sources=[source], transforms=None)
    labels = [fastcopy(label, custom=None) for label in cut.supervisions if label.text or label.alignment]
    return fastcopy(cut, recording=recording, features=None, supervisions=labels, custom=dict(fields))


def new_cut(name: str, info: AudioInfo, tar: Path, fields: Mapping[str, Any], text: str | None) -> DataCut:
    """Returns the cut of a whole member of a tar.

    Args:
        name: Its id.
        info: Rate, length and channels of its audio.
        tar: The tar on this machine.
        fields: Custom fields.
        text: Its transcript; None if it has none.
    """
    channels = list(range(info.num_channels))
    seconds = info.num_samples / info.sampling_rate
    recording = Recording(
        id=name,
        sources=[AudioSource("shar", channels=channels, source=str(tar))],
        sampling_rate=info.sampling_rate,
        num_samples=info.num_samples,
        duration=seconds,
    )
    cut: DataCut = recording.to_cut()  # type: ignore[no-untyped-call]
    cut.custom = dict(fields)
    if text is not None:
        cut.supervisions = [SupervisionSegment(name, name, 0.0, seconds, channels if channels[1:] else 0, text)]
    return cut
