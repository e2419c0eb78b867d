"""Noise of micro-batches that are computed as one batch: each draws the numbers that it draws apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from w2vlab.batch import rows_of


class Stream:
    """The random numbers of one micro-batch: those of PyTorch's default generator after `torch.manual_seed(seed)`.

    Args:
        generator: A generator of its own, on the device of the model.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    @classmethod
    def seeded(cls, seed: int, device: torch.device) -> Stream:
        """Returns the stream of a seed."""
        return cls(torch.Generator(device).manual_seed(seed))

    def draw_seed(self) -> int:
        """Draws a seed, as `dropout.draw_seed` does from the default generator; on a CPU."""
        return int(torch.randint(1 << 62, (), generator=self.generator).item())

    def copy(self) -> Stream:
        """Returns a stream that draws the same numbers from here on."""
        generator = torch.Generator(self.generator.device)
        generator.set_state(self.generator.get_state())
        return Stream(generator)


def default_generator(device: torch.device) -> torch.Generator:
    """Returns PyTorch's default generator of a device.

    Raises:
        ValueError: The device is neither a CPU nor a GPU of CUDA.
    """
    if device.type == "cpu":
        return torch.default_generator
    if device.type != "cuda":
        raise ValueError(f"`device` must be cpu or cuda to draw noise of several micro-batches, but is {device}.")
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]


@dataclass(frozen=True)
class Piece:
    """What a micro-batch has of a tensor `(B, T, ...)` of all.

    Attributes:
        stream: Its random numbers.
        rows: Its utterances.
        size: Its own length, without the padding of the others.
        padded: Whether its own utterances differ in length.
    """

    stream: Stream
    rows: slice
    size: int
    padded: bool


@dataclass(frozen=True)
class _Axis:
    pieces: tuple[Piece, ...]
    size: int


class SeparateNoise:
    """The streams of all micro-batches of a fused batch, and what each one has of its tensors.

    Args:
        streams: Of each micro-batch.
        sizes: Utterances of each micro-batch, which are the next rows of the batch.
        lengths: Frames of each utterance.
    """

    def __init__(self, streams: Sequence[Stream], sizes: Sequence[int], lengths: Sequence[int]) -> None:
        self._streams = tuple(streams)
        self._rows = tuple(rows_of(sizes))
        self._lengths = tuple(lengths)
        self._axis = self._axis_of(self._lengths)

    def _axis_of(self, lengths: Sequence[int]) -> _Axis:
        own = [lengths[rows] for rows in self._rows]
        pieces = tuple(
            Piece(stream, rows, max(some), min(some) < max(some))
            for stream, rows, some in zip(self._streams, self._rows, own, strict=True)
        )
        return _Axis(pieces, max(lengths))

    def along(self, lengths: Sequence[int]) -> AbstractContextManager[None]:
        """Makes the second axis of tensors inside one of these lengths of utterances, such as their masked frames."""
        return self._inside(self._rows, lengths)

    def multiplied(self, factor: int) -> AbstractContextManager[None]:
        """Makes the second axis of tensors inside one of so many times the frames."""
        return self.along([factor * length for length in self._lengths])

    def repeated(self, times: int) -> AbstractContextManager[None]:
        """Makes each utterance so many rows of the tensors inside, one after another."""
        rows = [slice(some.start * times, some.stop * times) for some in self._rows]
        return self._inside(rows, [length for length in self._lengths for _ in range(times)])

    @contextmanager
    def _inside(self, rows: Sequence[slice], lengths: Sequence[int]) -> Iterator[None]:
        before = self._rows, self._lengths, self._axis
        self._rows, self._lengths = tuple(rows), tuple(lengths)
        self._axis = self._axis_of(lengths)
        try:
            yield
        finally:
            self._rows, self._lengths, self._axis = before

    def pieces(self, batch: int, length: int) -> tuple[Piece, ...]:
        """Returns the pieces of a tensor of all micro-batches.

        Args:
            batch: Its utterances.
            length: Its frames.

        Raises:
            RuntimeError: It has other sizes.
        """
        if (batch, length) != (self._rows[-1].stop, self._axis.size):
            raise RuntimeError(
                f"Noise of {self._rows[-1].stop} utterances of {self._axis.size} frames is drawn for each micro-batch "
                f"(`data.fuse_seconds`), but a part draws it for {batch} of {length}. Set `data.fuse_seconds` to null."
            )
        return self._axis.pieces

    def copy(self) -> SeparateNoise:
        """Returns the noise that is drawn from here on."""
        streams = [stream.copy() for stream in self._streams]
        sizes = [rows.stop - rows.start for rows in self._rows]
        return SeparateNoise(streams, sizes, self._lengths)


_active: SeparateNoise | None = None
"""That of the batch that is computed: of the process, because backward passes on a GPU run in a thread of their own."""


def separate_noise() -> SeparateNoise | None:
    """Returns the noise of the micro-batches that are computed as one batch; None if noise is drawn for a whole batch.

    In a compiled region it is None: one that draws for each micro-batch would be compiled for each number of them.
    """
    return None if torch.compiler.is_compiling() else _active


@contextmanager
def drawing(noise: SeparateNoise | None) -> Iterator[None]:
    """Draws the noise of each micro-batch from its stream inside; None draws it for a whole batch, as outside."""
    global _active
    before, _active = _active, noise
    try:
        yield
    finally:
        _active = before


def along(lengths: Sequence[int]) -> AbstractContextManager[None]:
    """Inside, `SeparateNoise.along(lengths)`, if there is such noise."""
    noise = separate_noise()
    return nullcontext() if noise is None else noise.along(lengths)


def multiplied(factor: int) -> AbstractContextManager[None]:
    """Inside, `SeparateNoise.multiplied(factor)`, if there is such noise."""
    noise = separate_noise()
    return nullcontext() if noise is None else noise.multiplied(factor)


def repeated(times: int) -> AbstractContextManager[None]:
    """Inside, `SeparateNoise.repeated(times)`, if there is such noise."""
    noise = separate_noise()
    return nullcontext() if noise is None else noise.repeated(times)


class Replayed:
    """Draws again what is drawn from now on, each time it is entered: for activation checkpointing.

    Args:
        noise: The noise of now.
    """

    def __init__(self, noise: SeparateNoise) -> None:
        self._noise = noise.copy()
        self._entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self._entered.append(drawing(self._noise.copy()))
        self._entered[-1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)


def apart(
    function: Callable[..., Tensor],
    pieces: Sequence[Piece],
    *tensors: Tensor,
    axis: int = 1,
    gives_pieces: bool = False,
) -> Tensor:
    """Applies a function that draws noise to each micro-batch, from its own stream.

    Args:
        function: Maps what a micro-batch has of each of the tensors, and of frames, to what it has of the result.
        pieces: The micro-batches.
        tensors: Of all micro-batches, shape `(B, ..., T, ...)`.
        axis: Axis of the frames T, of the tensors and of the result.
        gives_pieces: Whether the function also gets the `Piece`, first.

    Returns:
        The result of all micro-batches, zero on padding of the shorter ones.
    """
    split = [_Split.apply(tensor, pieces, axis) for tensor in tensors]
    results = []
    # PyTorch's dropout and attention take no generator, so that the state of the default one is exchanged.
    default = default_generator(tensors[0].device)
    before = default.get_state()
    try:
        for piece, *own in zip(pieces, *split, strict=True):
            default.set_state(piece.stream.generator.get_state())
            results.append(function(piece, *own) if gives_pieces else function(*own))
            piece.stream.generator.set_state(default.get_state())
    finally:
        default.set_state(before)
    joined: Tensor = _Join.apply(pieces, axis, tensors[0].shape[axis], *results)
    return joined


def draw_exponential(like: Tensor) -> Tensor:
    """Draws exponential numbers of the shape `(B, T, ...)` of a tensor; 1 on the padding between micro-batches."""
    noise = separate_noise()
    if noise is None:
        return torch.empty_like(like).exponential_()
    drawn = torch.ones_like(like)
    for piece in noise.pieces(*like.shape[:2]):
        own = drawn[place(piece, 1)]
        like_own = torch.empty(own.shape, dtype=own.dtype, device=own.device)
        own.copy_(like_own.exponential_(generator=piece.stream.generator))
    return drawn


def place(piece: Piece, axis: int) -> tuple[slice, ...]:
    """Returns the indices of a piece in a tensor of all micro-batches."""
    return (piece.rows, *(slice(None),) * (axis - 1), slice(piece.size))


def _join(pieces: Sequence[Piece], axis: int, size: int, tensors: Sequence[Tensor]) -> Tensor:
    shape = list(tensors[0].shape)
    shape[0], shape[axis] = pieces[-1].rows.stop, size
    # With the axes in the order of memory that the pieces have, so that what follows finds its views.
    order = sorted(range(len(shape)), key=tensors[0].stride, reverse=True)
    joined = tensors[0].new_zeros([shape[number] for number in order])
    joined = joined.permute([order.index(number) for number in range(len(shape))])
    for piece, tensor in zip(pieces, tensors, strict=True):
        joined[place(piece, axis)] = tensor
    return joined


class _Split(torch.autograd.Function):
    """Views of what each micro-batch has; their gradients are put together at once."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, pieces: Sequence[Piece], axis: int) -> tuple[Tensor, ...]:
        ctx.pieces, ctx.axis, ctx.size = pieces, axis, tensor.shape[axis]
        return tuple(tensor[place(piece, axis)] for piece in pieces)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _join(ctx.pieces, ctx.axis, ctx.size, grad_outputs), None, None


class _Join(torch.autograd.Function):
    """All micro-batches as one tensor, zero on padding."""

    @staticmethod
    def forward(ctx: Any, pieces: Sequence[Piece], axis: int, size: int, *tensors: Tensor) -> Tensor:
        ctx.pieces, ctx.axis = pieces, axis
        return _join(pieces, axis, size, tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        gradient = grad_outputs[0]
        return None, None, None, *(gradient[place(piece, ctx.axis)] for piece in ctx.pieces)
