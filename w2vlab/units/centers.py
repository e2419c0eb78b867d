"""Centers of k-means: the vectors that units are the indices of, with what they were computed from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2vlab.formats.files.tensors import is_safetensors, open_safetensors, write_safetensors
from w2vlab.frame_grid import FrameGrid
from w2vlab.functional.codebooks import nearest_entries
from w2vlab.utils.plain_data import MAX_BYTES, parse_json

METADATA = "w2vlab_centers"
"""Key of our text in the metadata; a single one, so that the same centers give the same bytes."""

_FORMAT_VERSION = 1

_DISTANCES_AT_ONCE = 2**22
"""Distances from frames to centers in a piece of `nearest`: 16 MiB."""


@dataclass(kw_only=True)
class Centers:
    """Centers of k-means.

    Attributes:
        vectors: The centers, float32 of shape `(k, D)`; an array of NumPy is converted.
        grid: Where the frames that were clustered are in time.
        stream: What was clustered: `layer 6`, `context`, `latents`, `mfcc`, `log-mel`.
        counts: Frames that each center was nearest to when it was computed, int64 of shape `(k,)`; None if not known.
        inertia: Mean squared distance of these frames to their centers; None if not known.
        seed: Seed of the sample of frames and of the first centers; None if not known.
        provenance: What they were computed from, as plain data: the source, the corpus, the options.

    Raises:
        ValueError: Shapes or values are not those of centers.
    """

    vectors: Tensor
    grid: FrameGrid
    stream: str
    counts: Tensor | None = None
    inertia: float | None = None
    seed: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.vectors = torch.as_tensor(self.vectors).to("cpu", torch.float32).contiguous()
        self._copy = self.vectors
        shape = tuple(self.vectors.shape)
        if len(shape) != 2 or shape[0] < 2 or shape[1] < 1:
            raise ValueError(f"`vectors` must be at least 2 centers in rows, but have the shape {shape}.")
        if not bool(self.vectors.isfinite().all()):
            raise ValueError("`vectors` must be finite, but some are not.")
        if not self.stream:
            raise ValueError("`stream` must name what was clustered, such as layer 6, but is empty.")
        if self.grid.stride < 1 or self.grid.receptive_field < 0:
            raise ValueError(f"`grid` must have a positive stride and no negative receptive field, but is {self.grid}.")
        if self.counts is not None:
            self.counts = torch.as_tensor(self.counts).to("cpu", torch.int64)
            if self.counts.shape != shape[:1] or int(self.counts.min()) < 0:
                raise ValueError(f"`counts` must be a number of frames for each of {shape[0]} centers, but are not.")
        if self.inertia is not None and not 0 <= self.inertia < math.inf:
            raise ValueError(f"`inertia` must be finite and not negative, but is {self.inertia}.")

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Width D of a center."""
        return self.vectors.shape[1]

    def nearest(self, frames: Tensor) -> Tensor:
        """Returns the index of the center that is nearest to each frame.

        Distances are computed in float32, a piece of the frames at a time, so that memory does not grow with their
        number. Of centers that are equally near up to rounding, the first is taken, as in `nearest_entries`, which
        `CentersQuantizer` uses.

        Args:
            frames: Shape `(T, D)`, on any device.

        Returns:
            int64 of shape `(T,)`, on the device of the frames.

        Raises:
            ValueError: The frames have another width.
        """
        if frames.dim() != 2 or frames.shape[1] != self.dim:
            raise ValueError(
                f"`centers` must have the {frames.shape[-1]} dimensions of the frames, but have {self.dim} "
                f"({self.stream}): give the source and layer that they were computed from."
            )
        if not len(frames):
            return torch.empty(0, dtype=torch.int64, device=frames.device)
        entries = self._on(frames.device)[None]  # (1, k, D)
        size = max(1, _DISTANCES_AT_ONCE // len(self))
        pieces = (frames[start : start + size, None].float() for start in range(0, len(frames), size))  # (size, 1, D)
        return torch.cat([nearest_entries(piece, entries)[:, 0] for piece in pieces])

    def _on(self, device: torch.device) -> Tensor:
        """Returns the vectors on a device, where a copy stays for the next frames."""
        if self._copy.device != device:
            self._copy = self.vectors.to(device)
        return self._copy


def write_centers(centers: Centers, path: Path) -> None:
    """Writes centers as one safetensors file; readers see the old file until the new one is complete.

    The tensors are `vectors` and `counts`; the key `w2vlab_centers` of the metadata is JSON with everything else.

    Args:
        centers: The centers.
        path: The file; its folder is made.

    Raises:
        OSError: The file cannot be written.
    """
    content = {
        "version": _FORMAT_VERSION,
        "stride": centers.grid.stride,
        "receptive_field": centers.grid.receptive_field,
        "stream": centers.stream,
        "inertia": centers.inertia,
        "seed": centers.seed,
        "provenance": dict(centers.provenance),
    }
    tensors = {"vectors": centers.vectors}
    if centers.counts is not None:
        tensors["counts"] = centers.counts
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(tensors, path, {METADATA: json.dumps(content, ensure_ascii=False, allow_nan=False)})


def read_centers(path: Path, name: str = "centers") -> Centers:
    """Reads a file of `write_centers`, which may come from an untrusted source.

    Args:
        path: The file.
        name: Option with the path, for errors.

    Raises:
        ValueError: It is missing, damaged or another file, such as a pickle of scikit-learn.
    """
    if path.is_file() and not is_safetensors(path):
        raise ValueError(
            f"`{name}` must be a file that `w2vlab cluster` has written, but {path} is not. The k-means of another "
            "project is often a pickle, which could run any code; if you trust it, convert it in Python: "
            "write_centers(Centers(vectors=joblib.load(FILE).cluster_centers_, grid=FrameGrid(160, 400), "
            'stream="mfcc"), Path("centers.safetensors")).'
        )
    tensors, metadata = open_safetensors(path, name)
    if METADATA not in metadata or "vectors" not in tensors:
        raise ValueError(
            f"`{name}` must be a file that `w2vlab cluster` has written, but {path} has no `{METADATA}` in its "
            "metadata: it is another safetensors file."
        )
    try:
        content = _parse(metadata[METADATA])
        return Centers(
            vectors=tensors["vectors"],
            grid=FrameGrid(content["stride"], content["receptive_field"]),
            stream=content["stream"],
            counts=tensors.get("counts"),
            inertia=content["inertia"],
            seed=content["seed"],
            provenance=content["provenance"],
        )
    except ValueError as error:
        raise ValueError(f"`{name}` must be centers of `w2vlab cluster`, but {path} is damaged: {error}") from error


_TYPES: dict[str, tuple[type, ...]] = {
    "stride": (int,),
    "receptive_field": (int,),
    "stream": (str,),
    "inertia": (int, float, type(None)),
    "seed": (int, type(None)),
    "provenance": (dict,),
}


def _parse(text: str) -> dict[str, Any]:
    if len(text) > MAX_BYTES:
        raise ValueError(f"its metadata has more than {MAX_BYTES:,} characters.")
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError("its metadata is not a mapping.")
    if content.get("version") != _FORMAT_VERSION:
        raise ValueError(f"it is of version {str(content.get('version'))[:20]!r} of the format, not {_FORMAT_VERSION}.")
    for key, types in _TYPES.items():
        if key not in content or not isinstance(content[key], types) or isinstance(content[key], bool):
            raise ValueError(f"`{key}` in its metadata is missing, or of another type.")
    return content
