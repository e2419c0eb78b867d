"""What features, codes and units are computed by: a model, or acoustic features without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from w2vlab.frame_grid import FrameGrid
from w2vlab.types import AudioBatch


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One output of a source.

    Attributes:
        name: `layer 6`, `context`, `codes`, `units`, `mfcc` or `log-mel`.
        dim: Width D of a vector, or codebooks G.
        codebook_size: Entries V of each codebook; 0 for vectors.
    """

    name: str
    dim: int
    codebook_size: int = 0

    @property
    def is_discrete(self) -> bool:
        """Whether frames are codes."""
        return self.codebook_size > 0


class FrameSource(Protocol):
    """Computes frames from audio: some layers or the codes of a model, MFCC, or log-mel frames.

    Attributes:
        grid: Where the frames are in time; the same for all streams.
        streams: What it computes.
        provenance: What it is, as plain data: `source`, its path and hash, `layer`.
    """

    grid: FrameGrid
    streams: tuple[Stream, ...]
    provenance: Mapping[str, Any]

    @property
    def min_samples(self) -> int:
        """Samples of the shortest utterance with a frame."""

    def to(self, device: Any) -> FrameSource:
        """Moves the model to a device."""

    def __call__(self, batch: AudioBatch) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yields the id of each utterance and its frames by stream, on the host.

        Vectors are `(T, D)` float32, codes `(T, G)` int64, without padding.
        """
