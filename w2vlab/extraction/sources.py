"""What features, codes and units are computed by: a model, or acoustic features without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from torch import Tensor

from w2vlab.extraction.acoustic_names import ACOUSTIC
from w2vlab.frame_grid import FrameGrid
from w2vlab.types import AudioBatch, RunError, Seconds
from w2vlab.utils.messages import one_line

What = Literal["codes", "features", "units"]
"""Codes of a model's quantizer, vectors, or indices of k-means centers."""

CODES: Final = "codes"
FEATURES: Final = "features"
UNITS: Final = "units"


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


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """What cutting a long recording does to the frames of a source.

    Attributes:
        reach: Frames on both sides that a frame depends on, beside its receptive field: with so many in addition, the
            frames of a piece are those of the whole. None if a frame depends on all of the recording.
        default_seconds: Longest piece by default; None leaves recordings whole, because memory does not grow with
            their length, apart from the audio.
    """

    reach: int | None
    default_seconds: Seconds | None


PIECE_SECONDS: Seconds = 120.0
"""Longest piece by default. In a Transformer of BASE's shape, attention costs as much as the rest at about two minutes,
and more beyond."""

UNKNOWN_REACH = Cutting(reach=None, default_seconds=PIECE_SECONDS)


def check_finite(utterance: str, frames: Tensor) -> None:
    """Checks vectors before they are written or compared; that of NaN with centers would be a unit like any other.

    Args:
        utterance: Id of their utterance.
        frames: Shape `(T, D)`.

    Raises:
        RunError: Some are NaN or infinite.
    """
    if not bool(frames.isfinite().all()):
        number = int((~frames.isfinite().all(dim=1)).sum())
        raise RunError(
            f"The frames of {one_line(utterance)} must be finite, but {number:,} of {len(frames):,} are NaN or "
            "infinite. Use another model or --precision=32-true, or leave the utterance out with --exclude."
        )


def cutting_of(source: FrameSource) -> Cutting:
    """Returns what cutting does to the frames of a source, which may say so by its attribute `cutting`."""
    found: Cutting = getattr(source, "cutting", UNKNOWN_REACH)
    return found


def open_source(
    source: str,
    what: What,
    layers: str | None = None,
    centers: Path | None = None,
    device: Any = "cpu",
) -> FrameSource:
    """Opens what computes frames.

    Args:
        source: A checkpoint or a model of another project, as `w2vlab.load` takes it, or `mfcc` or `log-mel`.
        what: What to compute.
        layers: Of features: numbers of layers (0 is the input of the first one), `context`, `all`, with commas between;
            None for `context`. Of units the layer is that of the centers, and must be None.
        centers: File of k-means centers, for units.
        device: Device of the model.

    Raises:
        ValueError: The source cannot be opened, does not have what is asked for, or does not fit the centers.
    """
    if (centers is None) == (what == UNITS):
        fix = "`w2vlab cluster` writes it" if what == UNITS else "use --what=units, or leave it out"
        rule = "a file of centers for units" if what == UNITS else f"left out for {what}"
        raise ValueError(f"`centers` must be {rule}, but is {centers}; {fix}.")
    if what != FEATURES and layers is not None:
        why = "of units is that of the centers" if what == UNITS else "has no effect on codes"
        raise ValueError(f"`layers` must be left out for {what}, but is {layers!r}: the layer {why}.")
    if what == UNITS:
        from w2vlab.extraction.units_of_centers import open_units

        assert centers is not None, "checked above"
        return open_units(source, centers, device)
    if source in ACOUSTIC:
        from w2vlab.extraction.acoustic import acoustic_source

        if what == CODES:
            raise ValueError(
                f"`source` must be a model with codebooks for codes, but is {source}. Use --what=features."
            )
        if layers is not None:
            raise ValueError(f"`layers` must be left out for {source}, which has none, but is {layers!r}.")
        return acoustic_source(source).to(device)
    from w2vlab.extraction.model_frames import open_model

    return open_model(source, None if what == CODES else layers or "context").to(device)
