"""Dropout with 16 random bits an element on a CPU, where drawing them takes longer than the product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from w2vlab.functional.kernels.noise import apart, place, separate_noise
from w2vlab.functional.kernels.plain import uses_plain_kernels
from w2vlab.functional.kernels.recompute import Frames, Recomputed, as_tensor

LEVELS = 1 << 16
"""Values of a 16-bit number: a probability is rounded to a multiple of 1 / LEVELS, and the scale follows it."""


def draw_seed() -> int:
    """Draws a seed from PyTorch's default generator, and so from the address that the update has given it."""
    return int(torch.randint(1 << 62, ()).item())


def computes_eagerly_on_cpu(tensor: Tensor) -> bool:
    """Returns whether the CPU kernel can be used: `tensor` is on a CPU, and nothing is traced or compiled."""
    eager = type(tensor) is Tensor and not torch.compiler.is_compiling() and not uses_plain_kernels()
    return eager and tensor.device.type == "cpu"


def keep_mask(shape: tuple[int, ...], dropout: float, seed: int, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Draws which elements are kept, by comparing 16 random bits of each with a threshold.

    PyTorch draws a number an element from one Mersenne twister, at several nanoseconds each.

    Args:
        shape: Of the mask.
        dropout: Probability to be dropped, in (0, 1).
        seed: The same one gives the same mask.
        dtype: Of the mask; a floating-point one, because a product of two dtypes, or a choice by booleans, takes many
            times as long as one of numbers.

    Returns:
        The mask, 1 where an element is kept and 0 where it is dropped, and the factor that keeps the expectation.
    """
    threshold = min(max(round(dropout * LEVELS), 1), LEVELS - 1)
    size = math.prod(shape)
    words = np.random.Generator(np.random.SFC64(seed)).integers(0, 1 << 64, -(-size // 4), dtype=np.uint64)
    # Compared as signed numbers, which PyTorch has everywhere: they begin at -LEVELS / 2.
    bits = torch.from_numpy(words.view(np.int16)[:size]).view(shape)
    mask = torch.ge(bits, threshold - LEVELS // 2, out=torch.empty(shape, dtype=dtype))
    return mask, LEVELS / (LEVELS - threshold)


Seeds = Sequence[tuple[tuple[slice, ...], int]]
"""The seed of a whole tensor, or of what each of several micro-batches has of it."""


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, dropout: float, seeds: Seeds) -> Tensor:
        ctx.dropout, ctx.seeds = dropout, seeds
        return _drop(frames, dropout, seeds)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _drop(grad_outputs[0], ctx.dropout, ctx.seeds), None, None  # drawn again, so that no mask is kept


def _drop(frames: Tensor, dropout: float, seeds: Seeds) -> Tensor:
    if len(seeds) == 1:
        return _drop_all(frames, dropout, seeds[0][1])
    dropped = torch.zeros_like(frames)
    for own, seed in seeds:
        dropped[own] = _drop_all(frames[own], dropout, seed)
    return dropped


def _drop_all(frames: Tensor, dropout: float, seed: int) -> Tensor:
    mask, scale = keep_mask(tuple(frames.shape), dropout, seed, frames.dtype)
    return mask.mul_(scale).mul_(frames)


def dropout(frames: Tensor, probability: float, training: bool) -> Tensor:
    """Drops elements of `frames`.

    Equals `F.dropout(frames, probability, training)`, which is the plain path, in distribution: on a CPU the random
    numbers are others, of 16 bits each. It uses less time, and less memory because the backward pass draws the mask
    again. Micro-batches that are computed as one batch are dropped as if apart; the padding between them becomes zero.

    Args:
        frames: Any shape.
        probability: Probability of an element to be dropped.
        training: Whether elements are dropped.
    """
    if not training or not 0 < probability < 1:
        return F.dropout(frames, probability, training)
    noise = separate_noise()
    pieces = () if noise is None else noise.pieces(*frames.shape[:2])
    if computes_eagerly_on_cpu(frames):
        seeds = [(place(piece, 1), piece.stream.draw_seed()) for piece in pieces] or [((), draw_seed())]
        dropped: Tensor = _Dropout.apply(frames, probability, seeds)
        return dropped
    if pieces:
        return apart(lambda own: F.dropout(own.contiguous(), probability), pieces, frames)
    return F.dropout(frames, probability)


class Dropout(nn.Dropout):
    """Equals `nn.Dropout` in distribution, by `dropout`; recomputed frames stay so if nothing is dropped."""

    def forward(self, input: Frames) -> Frames:  # type: ignore[override]
        """Drops elements of `input`, of any shape, in training."""
        if isinstance(input, Recomputed) and not (self.training and self.p > 0):
            return input
        return dropout(as_tensor(input), self.p, self.training)
