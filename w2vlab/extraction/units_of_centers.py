"""Units as a source of frames: the nearest k-means center of each frame of another source."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from w2vlab.extraction.acoustic_names import ACOUSTIC
from w2vlab.extraction.sources import (
    FEATURES,
    UNITS,
    FrameSource,
    Stream,
    check_finite,
    cutting_of,
    open_source,
)
from w2vlab.types import AudioBatch
from w2vlab.units.centers import Centers, read_centers
from w2vlab.utils.messages import W2VLabWarning, one_line


class CenterUnits:
    """The index of the nearest center of each frame of a source.

    Args:
        source: Computes the vectors, one stream of the width of the centers.
        centers: The centers.
        provenance: What the centers are, as plain data.

    Attributes:
        grid: Where the frames are in time.
        streams: `units`, one codebook.
        provenance: What source and centers are, as plain data.
        cutting: What cutting a recording does to the frames.
    """

    def __init__(self, source: FrameSource, centers: Centers, provenance: Mapping[str, Any]) -> None:
        self.source, self.centers = source, centers
        self.grid = source.grid
        self.streams: tuple[Stream, ...] = (Stream(name=UNITS, dim=1, codebook_size=len(centers.vectors)),)
        self.provenance: Mapping[str, Any] = {**source.provenance, "centers": dict(provenance)}
        self.cutting = cutting_of(source)

    @property
    def min_samples(self) -> int:
        """Samples of the shortest utterance with a frame."""
        return self.source.min_samples

    def to(self, device: Any) -> CenterUnits:
        """Moves the source to a device."""
        self.source = self.source.to(device)
        return self

    def __call__(self, batch: AudioBatch) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yields the id of each utterance and its units `(T, 1)`, int64, on the host.

        Raises:
            RunError: The source computes frames that are not finite.
        """
        for name, frames in self.source(batch):
            (vectors,) = frames.values()
            check_finite(name, vectors)
            yield name, {UNITS: self.centers.nearest(vectors)[:, None]}


def open_units(source: str, centers: Path, device: Any = "cpu") -> CenterUnits:
    """Opens a source with the layer that centers were computed from.

    Args:
        source: As in `open_source`.
        centers: The file of the centers.
        device: Device of the model.

    Raises:
        ValueError: One of them cannot be opened, or the source does not fit the centers.
    """
    from w2vlab.extraction.model_frames import file_digest

    found = read_centers(centers)
    acoustic = source if source in ACOUSTIC else None
    if (found.stream in ACOUSTIC or acoustic) and found.stream != acoustic:
        raise ValueError(
            f"`source` must be what the centers were computed from, {one_line(found.stream, 40)}, but is "
            f"{one_line(source)}."
        )
    layers = None if acoustic else found.stream.removeprefix("layer ")
    try:
        opened = open_source(source, FEATURES, layers, device=device)
    except ValueError as problem:
        if "`layers`" not in str(problem):
            raise
        raise ValueError(
            f"`source` must have {one_line(found.stream, 40)}, which the centers were computed from, but {problem}"
        ) from None
    (stream,) = opened.streams
    width = found.vectors.shape[1]
    if stream.dim != width or opened.grid != found.grid:
        raise ValueError(
            f"`centers` must be of frames like those of {one_line(source)} ({_describe(stream.dim, opened.grid)}), but "
            f"are of others ({_describe(width, found.grid)}). Cluster this source: `w2vlab cluster`."
        )
    clustered, own = _digest_of_source(found.provenance), opened.provenance.get("blake2b")
    if clustered is not None and own is not None and clustered != own:
        warnings.warn(
            f"`centers` were computed from another file than {one_line(source)}: its content differs. Units are only "
            "meaningful for the model whose frames were clustered.",
            category=W2VLabWarning,
            stacklevel=2,
        )
    provenance = {
        "file": str(centers),
        "path": str(centers.absolute()),
        "blake2b": file_digest(centers),
        "stream": found.stream,
        "provenance": dict(found.provenance),
    }
    return CenterUnits(opened, found, provenance)


def _digest_of_source(provenance: Mapping[str, Any]) -> str | None:
    """Returns the hash of the clustered source, which `cluster` copies from the provenance of its source."""
    digest = provenance.get("blake2b")
    return digest if isinstance(digest, str) else None


def _describe(width: int, grid: Any) -> str:
    return f"{width} dimensions every {grid.stride} samples from {grid.receptive_field}"
