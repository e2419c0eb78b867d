"""Stores features of many utterances in a temporary file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class FrameStore:
    """Stores the features of utterances in a memory-mapped file, so that memory does not grow with their number.

    The file is in the folder of `tempfile` (`TMPDIR`), has no name, and is deleted when the process ends.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="w2vlab-features-")  # noqa: SIM115 (open as long as the store)
        self._entries: dict[tuple[str, str], tuple[int, torch.Size, np.dtype[np.generic]]] = {}
        self._size = 0
        self._mapped: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None = None

    def add(self, utterance: str, features: Mapping[str, Tensor]) -> None:
        """Writes the features of an utterance.

        Args:
            utterance: Id of the utterance.
            features: Tensors on the host, by the name of the representation.

        Raises:
            OSError: The file cannot be written.
        """
        for name, frames in features.items():
            array = np.ascontiguousarray(frames.numpy())
            self._entries[utterance, name] = self._size, frames.shape, array.dtype
            self._file.write(array.tobytes())
            self._size += array.nbytes
        self._mapped = None

    def get(self, utterance: str, name: str) -> Tensor:
        """Returns the features of an utterance in the representation `name`; they are read when they are accessed."""
        offset, shape, dtype = self._entries[utterance, name]
        if self._mapped is None:
            self._file.flush()
            # Mode "c" (copy on write), because PyTorch has no read-only tensors; nothing is written in fact.
            self._mapped = (
                np.memmap(self._file, np.uint8, "c", shape=(self._size,)) if self._size else np.zeros(0, np.uint8)
            )
        stop = offset + math.prod(shape) * dtype.itemsize
        return torch.from_numpy(self._mapped[offset:stop].view(dtype).reshape(shape))
