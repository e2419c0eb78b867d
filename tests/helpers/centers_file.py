"""A file of k-means centers for tests."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch

from w2vlab.frame_grid import FrameGrid
from w2vlab.units.centers import Centers, write_centers


@cache
def tiny_centers(k: int, dim: int) -> str:
    """A file of `k` random centers; the same for all tests of a process."""
    folder = tempfile.mkdtemp(prefix="centers-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    vectors = torch.randn(k, dim, generator=torch.Generator().manual_seed(0))
    path = Path(folder, "centers.safetensors")
    write_centers(Centers(vectors=vectors, grid=FrameGrid(10, 20), stream="latents"), path)
    return str(path)
