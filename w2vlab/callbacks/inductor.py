"""Inductor options that avoid out-of-bounds writes of CPU kernels in older versions of PyTorch."""

from __future__ import annotations

import re
from typing import Any

_FIRST_FIXED = (2, 14)
"""The first tested version of PyTorch with the fix."""


def safe_options(version: str) -> dict[str, Any]:
    """Returns the Inductor options with which CPU kernels of a version of PyTorch write within their buffers.

    torch 2.11.0 writes past the ends of buffers: where several rows are vectorised and summed over an inner dimension
    that is not adjacent, it stores a full vector even if fewer rows are left (pytorch/pytorch 181618, fixed by 183699).
    This occurred in the backward pass of the small encoder of the tests, with 8 channels, with AVX-512 on an AMD EPYC,
    whose vectors have 16 elements: 1280 bytes are written to a buffer of 640, and glibc aborts the process. Other
    processors are affected too: with the 8 elements of AVX2, 8 channels leave no remainder, but 12 channels do. The
    option that disables vectors for the remainder does not help, because the faulty store is in the main loop. So
    explicit vectorisation is disabled; auto-vectorisation by the C++ compiler is correct.

    torch 2.14.1 passes the same test on the same processor.

    Args:
        version: A version in the form of `torch.__version__`.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) >= _FIRST_FIXED:
        return {}
    return {"cpp.simdlen": 1}
