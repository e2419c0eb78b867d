"""Features of many utterances, in a temporary file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class FrameStore:
    """Keeps the features of utterances on disk, mapped into memory, so that memory does not grow with their number.

    The file goes where `tempfile` puts it (`TMPDIR`), has no name, and is gone with the process.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="w2vlab-features-")  # noqa: SIM115 (open as long as the store)
        self._places: dict[tuple[str, str], tuple[int, torch.Size, np.dtype[np.generic]]] = {}
        self._size = 0
        self._mapped: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None = None

    def add(self, utterance: str, features: Mapping[str, Tensor]) -> None:
        """Writes what each representation has of an utterance.

        Args:
            utterance: Its id.
            features: Tensors on the host by the name of the representation.

        Raises:
            OSError: The file cannot be written.
        """
        for name, frames in features.items():
            array = np.ascontiguousarray(frames.numpy())
            self._places[utterance, name] = self._size, frames.shape, array.dtype
            self._file.write(array.tobytes())
            self._size += array.nbytes
        self._mapped = None

    def get(self, utterance: str, name: str) -> Tensor:
        """Returns what the representation `name` has of an utterance; only what is looked at is read."""
        offset, shape, dtype = self._places[utterance, name]
        if self._mapped is None:
            self._file.flush()
            # Copied where it is written to, which it is not: PyTorch has no tensors that cannot be written to.
            self._mapped = (
                np.memmap(self._file, np.uint8, "c", shape=(self._size,)) if self._size else np.zeros(0, np.uint8)
            )
        stop = offset + math.prod(shape) * dtype.itemsize
        return torch.from_numpy(self._mapped[offset:stop].view(dtype).reshape(shape))
