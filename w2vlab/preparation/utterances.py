"""The utterances of a preparation: cuts with their supervisions, in a file that shards are byte ranges of."""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item, load_manifest_lazy

from w2vlab.data.audio.probing import EXTENSIONS
from w2vlab.data.corpora.spool import Spool
from w2vlab.data.labels.alignments import PHONE_TIER, Alignment, find_alignments
from w2vlab.data.labels.transcripts import read_texts
from w2vlab.data.shards.found import BYTES
from w2vlab.data.shards.sources import Source, is_sharded

PlainCut = dict[str, Any]

logger = logging.getLogger(__name__)


class Supervisions:
    """The supervisions of a corpus by utterance, as plain data.

    Args:
        source: A folder, a `.tsv` manifest or a lhotse manifest; of shards, the cuts of a scan have them already.
        speaker: Speaker of utterances whose supervisions name none.
        language: Likewise.

    Raises:
        ValueError: A file of transcripts is malformed.
    """

    def __init__(self, source: Source, speaker: str | None = None, language: str | None = None) -> None:
        self._common = {"speaker": speaker, "language": language}
        self._numbers: dict[str, int] = {}
        self._found: Spool[list[dict[str, Any]]] = Spool()
        self._texts: Mapping[str, str] = {}
        self._phones: Mapping[str, Alignment] = {}
        if is_sharded(source):
            return
        assert isinstance(source, Path), "other sources are sharded"
        if source.is_dir() or source.suffix == ".tsv":
            self._texts = dict(read_texts(source))
            self._phones = _read_phones(source)
        else:
            manifest: Any = load_manifest_lazy(source)
            for item in manifest:
                supervisions = getattr(item, "supervisions", ())
                if supervisions and item.id not in self._numbers:
                    self._numbers[item.id] = len(self._found)
                    self._found.append([supervision.to_dict() for supervision in supervisions])

    def of(self, cut: PlainCut) -> list[dict[str, Any]]:
        """Returns the supervisions of a cut; none if nothing is known about it."""
        number = self._numbers.get(cut["id"])
        found = (cut.get("supervisions") or []) if number is None else self._found[number]
        if found:
            return [{**self._known(), **supervision} for supervision in found]
        text, phones = self._text(cut["id"]), self._phones.get(cut["id"])
        if text is None and phones is None and not self._known():
            return []
        channel = cut.get("channel", 0)
        return [
            {
                "id": cut["id"],
                "recording_id": cut["recording"]["id"],
                "start": 0.0,
                "duration": cut["duration"],
                "channel": channel,
                **({} if text is None else {"text": text}),
                **({} if phones is None else {"alignment": {PHONE_TIER: _as_plain(phones)}}),
                **self._known(),
            }
        ]

    def _known(self) -> dict[str, str]:
        return {name: value for name, value in self._common.items() if value is not None}

    def _text(self, name: str) -> str | None:
        if name in self._texts:
            return self._texts[name]
        stem, dot, suffix = name.rpartition(".")
        return self._texts.get(stem) if dot + suffix.lower() in EXTENSIONS else None


def _read_phones(source: Path) -> Mapping[str, Alignment]:
    """Returns the phone alignments of a folder; none if it has `.lab` files of another kind, such as texts."""
    try:
        return find_alignments(source)
    except ValueError as problem:
        logger.warning("No phone labels are kept: %s", problem)
        return {}


def _as_plain(phones: Alignment) -> list[list[str | float]]:
    """Returns phones as lhotse writes them: symbol, start and duration."""
    return [
        [phone, round(float(start), 6), round(float(end - start), 6)]
        for phone, start, end in zip(phones.phones, phones.starts, phones.ends, strict=True)
    ]


class UtteranceFile:
    """A file of cuts, one a line; only lengths and places of the lines are in memory.

    Args:
        path: The file, which `write` has written.
        offsets: Where each line begins, and where the last one ends.
        durations: Duration of each cut in seconds.
        digest: Hash of the lines.
        speakers: Speakers of the supervisions.
    """

    def __init__(
        self,
        path: Path,
        offsets: npt.NDArray[np.int64],
        durations: npt.NDArray[np.float64],
        digest: str,
        speakers: set[str],
    ) -> None:
        self.path, self.offsets, self.durations, self.digest = path, offsets, durations, digest
        self.speakers = speakers

    def __len__(self) -> int:
        return len(self.durations)

    def move(self, path: Path) -> None:
        """Renames the file."""
        self.path.replace(path)
        self.path = path

    def __iter__(self) -> Iterator[PlainCut]:
        return read_range(self.path, 0, int(self.offsets[-1]))


def write_utterances(path: Path, cuts: Iterable[PlainCut]) -> UtteranceFile:
    """Writes cuts to a file.

    Raises:
        OSError: It cannot be written.
    """
    offsets, durations = array("q", [0]), array("d")
    speakers: set[str] = set()
    digest = hashlib.blake2b(digest_size=8)
    with path.open("wb") as file:
        for cut in cuts:
            line = (json.dumps(cut, ensure_ascii=False) + "\n").encode()
            file.write(line)
            digest.update(line)
            offsets.append(offsets[-1] + len(line))
            durations.append(cut["duration"])
            speakers.update(str(one["speaker"]) for one in cut.get("supervisions", ()) if one.get("speaker"))
    return UtteranceFile(path, np.array(offsets), np.array(durations), digest.hexdigest(), speakers)


def with_supervisions(manifest: Path, supervisions: Supervisions) -> Iterator[PlainCut]:
    """Yields the cuts of a scanned manifest with their supervisions, without the sizes of their files."""
    with manifest.open(encoding="utf-8") as lines:
        for line in lines:
            cut: PlainCut = json.loads(line)
            custom = {name: value for name, value in (cut.pop("custom", None) or {}).items() if name != BYTES}
            cut["supervisions"] = supervisions.of(cut)
            if custom:
                cut["custom"] = custom
            yield cut


def read_range(path: Path, start: int, stop: int) -> Iterator[PlainCut]:
    """Yields the cuts of a byte range of a file."""
    with path.open("rb") as file:
        file.seek(start)
        while file.tell() < stop:
            cut: PlainCut = json.loads(file.readline())
            yield cut


def as_cut(plain: PlainCut) -> Cut:
    """Returns the cut of plain data."""
    cut: Cut = deserialize_item(deepcopy(plain))  # it takes items out of what it is given
    return cut
