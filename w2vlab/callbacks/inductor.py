"""What PyTorch's compiler must be asked for so that its kernels for processors write where they may."""

from __future__ import annotations

import re
from typing import Any

_FIRST_RIGHT = (2, 14)
"""The first of the tested versions of PyTorch in which it is mended."""


def safe_options(version: str) -> dict[str, Any]:
    """Returns the options with which Inductor of a version of PyTorch writes where it may.

    torch 2.11.0 writes past the ends of buffers: where rows are taken several at a time, as a vector, and summed over
    an inner dimension with another one between, it stores a whole vector also where fewer rows are left
    (pytorch/pytorch 181618, mended by 183699). That was seen in the backward pass of the small encoder of the tests,
    with 8 channels, with AVX-512 on an AMD EPYC, whose vectors hold 16 numbers: 1280 bytes go to a buffer of 640, and
    glibc ends the process. It is no matter of that processor: with the 8 numbers of AVX2 that encoder has no rest, but
    one of 12 channels has. The option that does without vectors for the rest does not help, for the store is that of
    the whole vectors. So kernels are written without vectors; what the C++ compiler makes of their loops is right.

    torch 2.14.1 has passed the same test on the same processor.

    Args:
        version: As in `torch.__version__`.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) >= _FIRST_RIGHT:
        return {}
    return {"cpp.simdlen": 1}
