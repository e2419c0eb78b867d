"""ABX and dynamic time warping against literal loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from w2vlab.functional.measures.abx import StagedMean, abx_error, triples_of
from w2vlab.functional.measures.dtw import angular_distances, dtw


def literal_dtw(distances: np.ndarray) -> float:
    """Sums up, follows the cheapest path back (both, then second, then first), and divides by its cells."""
    height, width = distances.shape
    cost = np.full((height, width), math.inf)
    for i in range(height):
        for j in range(width):
            before = [cost[i - 1, j - 1]] if i and j else []
            before += [cost[i, j - 1]] if j else []
            before += [cost[i - 1, j]] if i else []
            cost[i, j] = distances[i, j] + (min(before) if before else 0)
    i, j, cells = height - 1, width - 1, 1
    while i or j:
        if i and j and cost[i - 1, j - 1] <= min(cost[i - 1, j], cost[i, j - 1]):
            i, j = i - 1, j - 1
        elif j and (not i or cost[i, j - 1] <= cost[i - 1, j]):
            j -= 1
        else:
            i -= 1
        cells += 1
    return cost[-1, -1] / cells


@pytest.mark.parametrize("levels", [0, 3], ids=["real", "with ties"])
def test_dtw_equals_a_loop(levels: int) -> None:
    """With a few levels of distance many paths are equally cheap, and the rule for ties decides their lengths."""
    generator = torch.Generator().manual_seed(levels)
    lengths = [(1, 1), (1, 6), (7, 1), (3, 6), (7, 6), (5, 5), (2, 3)]
    distances = torch.rand(len(lengths), 7, 6, generator=generator, dtype=torch.float64)
    if levels:
        distances = (distances * levels).round() / 4  # sums of quarters are exact
    found = dtw(distances, [n for n, _ in lengths], [m for _, m in lengths])
    expected = [literal_dtw(distances[p, :n, :m].numpy()) for p, (n, m) in enumerate(lengths)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_distances_beyond_the_lengths_are_ignored() -> None:
    distances = torch.rand(1, 4, 5, generator=torch.Generator().manual_seed(0))
    spoiled = torch.full((1, 6, 9), math.nan)
    spoiled[:, :4, :5] = distances
    assert torch.equal(dtw(spoiled, [4], [5]), dtw(distances, [4], [5]))


def test_angles() -> None:
    x = torch.tensor([[1.0, 0.0], [2.0, 2.0], [-3.0, 0.0], [0.0, 0.0]])
    angles = angular_distances(x, torch.tensor([[5.0, 0.0], [0.0, 0.0]]))
    assert angles.tolist() == [[0, 1], [pytest.approx(0.25), 1], [1, 1], [1, 0]]


def literal_abx(a: list[int], b: list[int], distance: np.ndarray, same: bool, x: list[int]) -> float:
    wrong, triples = 0.0, 0
    for k in x:
        for i in a:
            if same and i == k:
                continue
            for j in b:
                wrong += 1.0 if distance[k, i] > distance[k, j] else 0.5 if distance[k, i] == distance[k, j] else 0.0
                triples += 1
    return wrong / triples


@pytest.mark.parametrize("same", [True, False])
def test_error_equals_a_loop(same: bool) -> None:
    distance = np.random.default_rng(0).integers(0, 4, (9, 9)) / 4
    a, b, x = [0, 1, 2], [3, 4, 5, 6], [0, 1, 2] if same else [7, 8]
    found = abx_error(torch.tensor(distance[np.ix_(x, a)]), torch.tensor(distance[np.ix_(x, b)]), same)
    assert found == pytest.approx(literal_abx(a, b, distance, same, x))


@pytest.mark.parametrize("same", [True, False])
def test_triples_equal_a_loop(same: bool) -> None:
    distance = np.random.default_rng(1).integers(0, 4, (9, 9)) / 4
    a, b, x = [0, 1, 2], [3, 4, 5, 6], [0, 1, 2] if same else [7, 8]
    to_same, to_other = (torch.tensor(distance[np.ix_(x, side)]) for side in (a, b))
    found = triples_of(to_same, to_other, same, 10**6)
    expected = {
        (k, i, j): 0.5
        if distance[x[k], a[i]] == distance[x[k], b[j]]
        else float(distance[x[k], a[i]] > distance[x[k], b[j]])
        for k, i, j in itertools.product(range(len(x)), range(len(a)), range(len(b)))
        if not same or k != i
    }
    places = zip(found.x.tolist(), found.a.tolist(), found.b.tolist(), strict=True)
    assert dict(zip(places, found.wrong.tolist(), strict=True)) == expected
    assert len(found.wrong) == len(expected)
    some = triples_of(to_same, to_other, same, 10)
    assert len(some.wrong) == 10
    for *place, wrong in zip(some.x.tolist(), some.a.tolist(), some.b.tolist(), some.wrong.tolist(), strict=True):
        assert expected[tuple(place)] == wrong


def test_one_item_has_no_triples() -> None:
    with pytest.raises(ValueError, match="at least one pair of different items"):
        abx_error(torch.zeros(1, 1), torch.zeros(1, 2), same_items=True)


def test_cells_are_averaged_in_stages() -> None:
    keys = [("ab", "s1"), ("ab", "s1"), ("ab", "s2"), ("ba", "s1")]
    errors = [0.1, 0.3, 0.6, 0.8]
    mean = StagedMean(keys)
    assert mean(errors) == pytest.approx(((0.2 + 0.6) / 2 + 0.8) / 2)
    assert mean(errors, [2, 1, 1, 0]) == pytest.approx(((0.5 / 3) + 0.6) / 2)
    assert math.isnan(mean(errors, [0, 0, 0, 0]))


def test_a_pair_of_phones_is_one_stage() -> None:
    """Three pairs of phones count alike, however many others a phone has."""
    keys = [(("a", "b"), "s"), (("a", "c"), "s"), (("b", "a"), "s")]
    assert StagedMean(keys)([0.0, 0.0, 0.6]) == pytest.approx(0.2)
