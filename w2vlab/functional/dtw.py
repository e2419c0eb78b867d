"""Distances between sequences of vectors that may differ in tempo: dynamic time warping, of many pairs at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from w2vlab.functional.precision import at_least_float32


def angular_distances(first: Tensor, second: Tensor) -> Tensor:
    """Returns the angle between every two frames as a share of 180 degrees.

    A frame of zeros is at distance 1 from any other frame and at distance 0 from one of zeros.

    Args:
        first: Frames, shape `(…, N, D)`.
        second: Frames, shape `(…, M, D)`.

    Returns:
        In [0, 1], shape `(…, N, M)`.

    Reference:
        Kahn et al. 2020, arXiv:1912.07875, Section 4.1 (the cosine of the paper is this angle in its code).
    """
    first, second = at_least_float32(first), at_least_float32(second)
    cosine = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).mT  # (…, N, M)
    distance = torch.acos(cosine.clamp(-1, 1)) / math.pi
    nothing = (first == 0).all(dim=-1)[..., :, None], (second == 0).all(dim=-1)[..., None, :]
    distance = distance.masked_fill(nothing[0] ^ nothing[1], 1.0)
    return distance.masked_fill(nothing[0] & nothing[1], 0.0)


def dtw(distances: Tensor, num_first: Sequence[int], num_second: Sequence[int]) -> Tensor:
    """Returns the mean distance along the cheapest alignment of each of P pairs of sequences.

    A path goes from the first frames of both to the last ones, by steps of one frame in one or both. The one with the
    smallest sum is taken; of several, as one follows them back, the step in both before the one in the second, and that
    before the one in the first. The sum is divided by the number of cells of that path.

    All pairs go together, one anti-diagonal after another.

    Args:
        distances: Between the frames of each pair, shape `(P, N, M)`; what lies beyond a pair's lengths is not read.
        num_first: Frames of the first sequence of each pair, P integers from 1 to N.
        num_second: Frames of the second, P integers from 1 to M.

    Returns:
        Shape `(P,)`.

    Reference:
        Sakoe and Chiba 1978; normalised as in Schatz et al. 2013 and Libri-Light, arXiv:1912.07875.
    """
    pairs, height, width = distances.shape
    device = distances.device
    last = torch.stack([torch.tensor(list(num_first)), torch.tensor(list(num_second))]).to(device) - 1  # (2, P)
    ends = last.sum(dim=0)  # the anti-diagonal on which each pair is done
    result = distances.new_zeros(pairs)
    # Cell (i, d - i) of anti-diagonal d stands at place i + 1; place 0 is the border that no path enters.
    padded = distances.new_full((pairs, height + 1), math.inf)
    before, twice = padded.clone(), padded.clone()  # costs on the last anti-diagonal and the one before it
    steps, steps_twice = torch.ones_like(padded), torch.ones_like(padded)
    rows = torch.arange(height, device=device)
    for diagonal in range(height + width - 1):
        first, stop = max(0, diagonal - width + 1), min(height, diagonal + 1)
        inside = rows[first:stop]
        cell = distances[:, inside, diagonal - inside]  # (P, stop - first)
        cost, count = padded.clone(), torch.ones_like(padded)
        if diagonal == 0:
            cost[:, 1] = cell[:, 0]
        else:
            both = twice[:, first:stop]  # from (i - 1, j - 1)
            second = before[:, first + 1 : stop + 1]  # from (i, j - 1)
            one = before[:, first:stop]  # from (i - 1, j)
            best = torch.minimum(torch.minimum(both, second), one)
            cost[:, first + 1 : stop + 1] = cell + best
            taken = torch.where(second <= one, steps[:, first + 1 : stop + 1], steps[:, first:stop])
            taken = torch.where((both <= second) & (both <= one), steps_twice[:, first:stop], taken)
            count[:, first + 1 : stop + 1] = taken + 1
        done = ends == diagonal
        if bool(done.any()):
            places = last[0, done] + 1
            result[done] = cost[done, places] / count[done, places]
        twice, before, steps_twice, steps = before, cost, steps, count
    return result
