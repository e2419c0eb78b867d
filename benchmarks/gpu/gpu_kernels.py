"""Attention by each of PyTorch's kernels in the shapes of a step, to see whether its own choice is the fastest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.gpu_measures import seconds_each

BACKENDS = {
    "PyTorch's choice": None,
    "FlashAttention": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}

SHAPES = {"BASE": (20, 12, 781, 64), "LARGE": (15, 16, 999, 64)}
"""Utterances, heads, frames and width of a head, with 312 s of audio."""

TINY = (2, 2, 20, 8)


def run(rehearse: bool, save: Callable[[dict[str, Any]], None]) -> None:
    """Times a forward and a backward pass of each kernel with BASE's dropout of 0.1 and without, and with padding."""
    device = torch.device("cpu" if rehearse else "cuda")
    result: dict[str, Any] = {}
    for config, shape in {"tiny": TINY}.items() if rehearse else SHAPES.items():
        for dropout in (0.1, 0.0):
            for padded in (False, True):
                name = f"{config}, dropout {dropout:g}{', padding' if padded else ''}"
                result[name] = {
                    backend: _milliseconds(kernel, shape, dropout, padded, 2 if rehearse else 20, device)
                    for backend, kernel in BACKENDS.items()
                }
                save(result)


def _milliseconds(
    kernel: SDPBackend | None,
    shape: tuple[int, int, int, int],
    dropout: float,
    padded: bool,
    times: int,
    device: torch.device,
) -> float | None:
    """Returns the time of both passes; None if the kernel has no such attention."""
    batch, heads, length, width = shape
    # Queries, keys and values side by side in memory, as they come from their one projection.
    qkv = torch.randn(batch, length, 3, heads, width, device=device, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(batch, heads, length, width, device=device, dtype=torch.bfloat16)
    visible = None
    if padded:
        lengths = length - torch.arange(batch, device=device) * length // (4 * batch)
        visible = (torch.arange(length, device=device) < lengths[:, None])[:, None, None]  # (B, 1, 1, T)

    def step() -> None:
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
        torch.autograd.grad(output, qkv, gradient)

    try:
        with nullcontext() if kernel is None else sdpa_kernel(kernel):
            seconds_each(step, 3, device)
            return 1000 * seconds_each(step, times, device)
    except RuntimeError:  # no kernel is available for these options
        return None
