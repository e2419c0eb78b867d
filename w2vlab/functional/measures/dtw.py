"""Dynamic time warping of many pairs of sequences at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from w2vlab.functional.precision import at_least_float32


def angular_distances(first: Tensor, second: Tensor) -> Tensor:
    """Returns the angles between all pairs of frames, divided by 180 degrees.

    A zero frame has distance 0 to another zero frame, and distance 1 to all other frames.

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
    first_zero, second_zero = (first == 0).all(dim=-1)[..., :, None], (second == 0).all(dim=-1)[..., None, :]
    distance = distance.masked_fill(first_zero ^ second_zero, 1.0)
    return distance.masked_fill(first_zero & second_zero, 0.0)


def dtw(distances: Tensor, num_first: Sequence[int], num_second: Sequence[int]) -> Tensor:
    """Returns the mean distance along the best alignment of each of P pairs of sequences.

    An alignment path goes from the first frames of both sequences to their last ones, in steps of one frame in one or
    both of them. The path with the smallest sum of distances is chosen; ties are resolved in backtracking, in the order
    step in both, step in the second, step in the first. The sum is divided by the number of cells of the path.

    All pairs are computed together, one anti-diagonal after another.

    Args:
        distances: Distances between the frames of each pair, shape `(P, N, M)`; values beyond the lengths are ignored.
        num_first: Frames of the first sequence of each pair, P integers from 1 to N.
        num_second: Frames of the second sequence of each pair, P integers from 1 to M.

    Returns:
        Mean distances, shape `(P,)`.

    Reference:
        Sakoe and Chiba 1978; normalised as in Schatz et al. 2013 and Libri-Light, arXiv:1912.07875.
    """
    pairs, height, width = distances.shape
    device = distances.device
    last = torch.stack([torch.tensor(list(num_first)), torch.tensor(list(num_second))]).to(device) - 1  # (2, P)
    ends = last.sum(dim=0)  # the anti-diagonal of the last cell of each pair
    result = distances.new_zeros(pairs)
    # Cell (i, d - i) of anti-diagonal d has index i + 1; index 0 is a border of infinite cost.
    padded = distances.new_full((pairs, height + 1), math.inf)
    before, twice = padded.clone(), padded.clone()  # costs on the previous anti-diagonal and the one before it
    steps, steps_twice = torch.ones_like(padded), torch.ones_like(padded)  # cells of the paths to them
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
            cells = last[0, done] + 1
            result[done] = cost[done, cells] / count[done, cells]
        twice, before, steps_twice, steps = before, cost, steps, count
    return result
