"""Phone alignments, read from label files of Festival voices and from lhotse manifests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lhotse.serialization import load_manifest_lazy
from lhotse.supervision import SupervisionSegment

from w2vlab.data.audio.probing import EXTENSIONS
from w2vlab.data.labels.lines import read_lines
from w2vlab.types import Seconds

PHONE_TIER = "phone"
"""Name of the phone alignment in a lhotse supervision."""

TOLERANCE: Seconds = 0.025
"""How far labels may extend past the end of the audio: label files round, and a last frame may be incomplete."""

UNKNOWN_SPEAKER = "one"
"""Speaker of all labels that name no speaker."""


@dataclass(frozen=True)
class Alignment:
    """The phones of one utterance, in order and without overlap.

    Attributes:
        phones: Phone names.
        starts: Start of each phone, in seconds from the start of the utterance.
        ends: End of each phone, in seconds.
        speaker: Name of the speaker.
    """

    phones: tuple[str, ...]
    starts: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]
    speaker: str = UNKNOWN_SPEAKER

    def __len__(self) -> int:
        return len(self.phones)

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """The middle of each phone, in seconds."""
        return (self.starts + self.ends) / 2

    def phone_indices(self, times: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Returns the index in `phones` of the phone spoken at each of `times` (seconds), or -1 outside all phones."""
        times = np.asarray(times, dtype=np.float64)
        if not len(self):
            return np.full(times.shape, -1, dtype=np.int64)
        number = np.searchsorted(self.starts, times, side="right") - 1
        inside = (number >= 0) & (times < self.ends[number])
        return np.where(inside, number, -1)

    def check(self, name: str, duration: Seconds) -> None:
        """Checks that the labels fit the audio.

        Args:
            name: Id of the utterance, for the error message.
            duration: Duration of its audio, in seconds.

        Raises:
            ValueError: The labels end after the audio.
        """
        if len(self) and self.ends[-1] > duration + TOLERANCE:
            raise ValueError(
                f"The labels of {name} must end with its audio, at {duration:.3f} s, but end at {self.ends[-1]:.3f} s. "
                "Use labels and audio of the same corpus, at the same speed."
            )


def read_lab_file(path: Path) -> Alignment:
    """Reads a label file of a Festival voice: a header that ends in `#`, then lines `END_SECONDS COLOUR PHONE`.

    Raises:
        ValueError: The header is missing, or a line is malformed.
    """
    lines = read_lines(path)
    header_end = next((number for number, line in enumerate(lines) if line.strip() == "#"), None)
    if header_end is None:
        raise ValueError(f"{path} must be a label file with a line `#` before its labels, but has no such line.")
    phones, ends = [], [0.0]
    for number, line in enumerate(lines[header_end + 1 :], start=header_end + 2):
        if not line.strip():
            continue
        fields = line.split()
        end = _parse_seconds(fields[0])
        if len(fields) < 3 or end is None or end <= ends[-1]:
            raise ValueError(
                f"Line {number} of {path} must be an end time in seconds after {ends[-1]:g}, a number and a phone, "
                f"but is {line!r}."
            )
        phones.append(fields[2])
        ends.append(end)
    return Alignment(tuple(phones), np.array(ends[:-1]), np.array(ends[1:]))


def read_festival_transcripts(path: Path) -> dict[str, str]:
    """Reads the transcripts of a Festival voice: lines `( NAME "text" )`, as in `etc/txt.done.data`.

    Stress marks (`+`) and punctuation are kept.

    Returns:
        The text of each utterance, by its file name without the suffix.

    Raises:
        ValueError: A line is malformed.
    """
    texts = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        found = re.fullmatch(r'\s*\(\s*(\S+)\s+"(.*)"\s*\)\s*', line)
        if found is None:
            raise ValueError(f'Line {number} of {path} must be ( NAME "text" ), but is {line!r}.')
        texts[found[1]] = found[2]
    return texts


def find_alignments(source: Path) -> dict[str, Alignment]:
    """Reads the phone alignments of a corpus.

    A folder has them in `.lab` files: `a/x.lab` beside `a/x.wav`, or `lab/x.lab` if the folder of audio is `wav`, as
    in a Festival voice. A lhotse manifest of cuts has them in its supervisions, as the alignment `phone`.

    Args:
        source: The folder or manifest.

    Returns:
        The alignment of each utterance by its id in `SpeechDataModule`; empty if the corpus has no alignments.

    Raises:
        ValueError: A label file is malformed.
    """
    if source.is_dir():
        return _read_folder(source)
    if source.name.endswith((".jsonl", ".jsonl.gz")):
        return _read_lhotse_manifest(source)
    return {}


def _read_folder(root: Path) -> dict[str, Alignment]:
    labels = {path.relative_to(root).with_suffix("").as_posix(): path for path in root.rglob("*.lab")}
    festival = root.parent / "lab"
    if not labels and root.name == "wav" and festival.is_dir():
        labels = {path.relative_to(festival).with_suffix("").as_posix(): path for path in festival.rglob("*.lab")}
    if not labels:
        return {}
    found = {}
    for audio in sorted(path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS):
        name = audio.relative_to(root)
        if (label := labels.get(name.with_suffix("").as_posix())) is not None:
            found[name.as_posix()] = read_lab_file(label)
    return found


def _read_lhotse_manifest(manifest: Path) -> dict[str, Alignment]:
    found = {}
    items: Any = load_manifest_lazy(manifest)
    for item in items:
        supervisions = [s for s in getattr(item, "supervisions", ()) if PHONE_TIER in (s.alignment or {})]
        if supervisions:
            found[item.id] = _alignment_from_supervisions(item.id, supervisions)
    return found


def _alignment_from_supervisions(name: str, supervisions: list[SupervisionSegment]) -> Alignment:
    phones = (item for s in supervisions for item in (s.alignment or {})[PHONE_TIER])
    items = sorted(phones, key=lambda item: item.start)
    starts = np.array([float(item.start) for item in items])
    ends = np.array([float(item.end) for item in items])
    # lhotse rounds times to about 0.1 ms, so neighbouring phones may overlap by that much.
    if (ends <= starts).any() or (starts[1:] < ends[:-1] - 1e-3).any():
        raise ValueError(
            f"The alignment `{PHONE_TIER}` of {name} must have consecutive phones, but some overlap or are empty."
        )
    speakers = {s.speaker for s in supervisions if s.speaker}
    speaker = speakers.pop() if len(speakers) == 1 else "+".join(sorted(speakers)) or UNKNOWN_SPEAKER
    return Alignment(tuple(item.symbol for item in items), starts, ends, speaker)


def _parse_seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
