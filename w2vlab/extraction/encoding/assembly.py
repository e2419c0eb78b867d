"""Puts the frames of a shard together, in the order of the corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut

from w2vlab.data.corpora.utterances import num_samples
from w2vlab.extraction.encoding.corpus import OrderedCorpus
from w2vlab.extraction.encoding.plan import Piece, Shard
from w2vlab.extraction.sources import Stream, check_finite
from w2vlab.extraction.writing.utterance import EncodedUtterance, code_type

Frames = npt.NDArray[Any]


class ShardAssembler:
    """Collects the frames of the pieces of a shard.

    Args:
        corpus: The utterances.
        streams: The outputs of the source.
    """

    def __init__(self, corpus: OrderedCorpus, streams: Sequence[Stream]) -> None:
        self._corpus = corpus
        self._streams = tuple(streams)
        self._frames: dict[int, dict[int, Mapping[str, Frames]]] = {}
        self._failures: dict[int, str] = {}

    def add(self, piece: Piece, frames: Mapping[str, Any]) -> None:
        """Adds the frames of a window, tensors by stream, of which those of the context are left out.

        Raises:
            RunError: Vectors are not finite.
        """
        kept = slice(piece.skipped, piece.skipped + piece.num_frames)
        arrays = {}
        for stream in self._streams:
            array = frames[stream.name].numpy()
            if not piece.num_frames <= len(array[piece.skipped :]):
                raise AssertionError(f"{stream.name} of {piece} has {len(array)} frames")
            dtype = code_type(stream.codebook_size) if stream.is_discrete else np.float32
            # A copy: a view would keep the whole batch in memory, with its padding.
            if not stream.is_discrete and not np.isfinite(array[kept]).all():
                check_finite(self._corpus.cut(piece.utterance).id, frames[stream.name][kept])
            arrays[stream.name] = array[kept].astype(dtype, order="C", copy=True)
        self._frames.setdefault(piece.utterance, {})[piece.index] = arrays

    def fail(self, failures: Mapping[int, str]) -> None:
        """Records utterances that could not be read."""
        for utterance, reason in failures.items():
            self._failures.setdefault(utterance, reason)

    def take(self, shard: Shard) -> tuple[list[EncodedUtterance], dict[str, str]]:
        """Returns the utterances of a shard in order, and the reason for each id that could not be read; forgets them.

        Args:
            shard: The shard, all of whose pieces were added.
        """
        utterances, failed = [], {}
        for number in range(shard.first, shard.stop):
            cut = self._corpus.cut(number)
            pieces = self._frames.pop(number, {})
            if number in self._failures:
                failed[cut.id] = self._failures.pop(number)
                continue
            joined = {
                stream.name: _joined([pieces[index][stream.name] for index in sorted(pieces)])
                for stream in self._streams
            }
            path, is_whole = _file_of(cut)
            utterances.append(
                EncodedUtterance(
                    id=cut.id,
                    path=path,
                    num_samples=num_samples(cut),
                    frames=joined,
                    start=cut.start,
                    is_whole_file=is_whole,
                )
            )
        return utterances, failed


def _joined(pieces: Sequence[Frames]) -> Frames:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _file_of(cut: Cut) -> tuple[str | None, bool]:
    """Returns the path of the audio of an utterance, None if it is not one file, and whether it is all of that file."""
    recording: Any = getattr(cut, "recording", None)
    if recording is None or len(recording.sources) != 1 or recording.sources[0].type != "file":
        return None, False
    is_whole = cut.start == 0 and abs(cut.duration - recording.duration) < 1e-6 and not recording.transforms
    return str(recording.sources[0].source), bool(is_whole)
