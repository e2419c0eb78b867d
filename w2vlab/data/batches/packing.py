"""Sends a batch from a worker process in one piece of shared memory."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from w2vlab.types import RunError

_ALIGNMENT = 64


@dataclass
class Packed:
    """A batch whose tensors are in one buffer.

    PyTorch passes each tensor of a batch between processes by a connection of its own, which takes the training process
    longer than everything else that it does to receive the tensor.

    Attributes:
        content: The pickled batch without its tensors.
        tensors: First byte in the buffer, type and shape of each tensor.
        buffer: The tensors, uint8.
    """

    content: bytes
    tensors: list[tuple[int, torch.dtype, torch.Size]]
    buffer: Tensor

    def pin_memory(self) -> Packed:
        """Pins all tensors at once; the `DataLoader` calls it."""
        return Packed(self.content, self.tensors, self.buffer.pin_memory())

    def unpack(self) -> Any:
        """Returns the batch; its tensors are views of the buffer."""
        found = [
            self.buffer[first : first + shape.numel() * dtype.itemsize].view(dtype).view(shape)
            for first, dtype, shape in self.tensors
        ]
        return _Unpickler(self.content, found).load()


def pack(batch: Any) -> Packed:
    """Packs a batch of any type into new shared memory.

    Args:
        batch: The batch, with tensors of any number in host memory.

    Raises:
        RunError: There is no room in shared memory, or the process may not open one more file.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(batch)
    places, size = [], 0
    for tensor in pickler.tensors:
        places.append((size, tensor.dtype, tensor.shape))
        size += -(-tensor.numel() * tensor.itemsize // _ALIGNMENT) * _ALIGNMENT
    buffer = torch.empty(0, dtype=torch.uint8)
    if size:
        buffer = torch.empty(0, dtype=torch.uint8).set_(_shared_memory(size))
    packed = Packed(file.getvalue(), places, buffer)
    for tensor, (first, dtype, shape) in zip(pickler.tensors, places, strict=True):
        buffer[first : first + shape.numel() * dtype.itemsize].view(dtype).view(shape).copy_(tensor)
    return packed


def _shared_memory(size: int) -> torch.UntypedStorage:
    try:
        storage: torch.UntypedStorage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise RunError(
            f"Shared memory (/dev/shm) must have room for batches on their way to training, but {size / 2**20:.1f} MiB "
            f"cannot be had: {error}. Give the machine more (of a container: docker run --shm-size=1g), raise the "
            "limit of open files (ulimit -n 4096), or read in the training process: --data.num_workers=0."
        ) from None
    return storage


class _Pickler(pickle.Pickler):
    """Takes the tensors out of what it pickles."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []

    def persistent_id(self, value: Any) -> int | None:
        """Returns the number of a tensor."""
        if not isinstance(value, Tensor):
            return None
        self.tensors.append(value.detach())
        return len(self.tensors) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, tensors: list[Tensor]) -> None:
        super().__init__(io.BytesIO(content))
        self._tensors = tensors

    def persistent_load(self, number: int) -> Tensor:
        """Returns the tensor of a number."""
        return self._tensors[number]
