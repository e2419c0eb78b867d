"""Searching, reading and counting codebooks, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from w2vlab.functional.codebooks import (
    count_codes,
    lookup_entries,
    nearest_entries,
    perplexity,
    select_entries,
    sum_probabilities,
)
from w2vlab.losses import DiversityPenalty
from w2vlab.types import LossOutput, PretrainOutput, QuantizerOutput


@pytest.mark.parametrize("num_tables", [1, 3])
def test_nearest_entries_equal_brute_force(num_tables: int) -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(2, 50, 3, 4))
    entries = generator.normal(size=(num_tables, 20, 4))
    codes = nearest_entries(torch.from_numpy(vectors), torch.from_numpy(entries))
    for row, frame, group in np.ndindex(2, 50, 3):
        distances = [math.dist(vectors[row, frame, group], entry) for entry in entries[group % num_tables]]
        assert codes[row, frame, group] == np.argmin(distances)


@pytest.mark.parametrize("num_tables", [1, 2])
@pytest.mark.parametrize("offset", [0.0, 100.0, 10_000.0])
def test_nearest_entries_do_not_depend_on_a_common_offset(offset: float, num_tables: int) -> None:
    """In float32, on numbers that it holds exactly: any difference is one of the arithmetic."""
    generator = torch.Generator().manual_seed(0)
    vectors, entries = (
        offset + torch.randint(-512, 512, shape, generator=generator) / 256
        for shape in [(2000, 2, 32), (num_tables, 64, 32)]
    )
    distances = torch.stack(
        [torch.cdist(vectors[:, group].double(), entries[group % num_tables].double()) for group in range(2)], dim=1
    )
    codes = nearest_entries(vectors, entries)
    assert torch.equal(distances.gather(-1, codes[..., None])[..., 0], distances.amin(dim=-1))


def test_nearest_entry_of_an_entry_is_itself() -> None:
    entries = torch.randn(2, 30, 8)
    codes = nearest_entries(entries.transpose(0, 1), entries)
    assert torch.equal(codes, torch.arange(30)[:, None].expand(-1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_first_of_entries_equal_up_to_rounding_is_chosen(dtype):
    """Two entries at one place differ by the order in which frames were summed up: that must not decide."""
    entries = torch.randn(1, 5, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))
    entries[0, 4] = entries[0, 2] * (1 - torch.finfo(dtype).eps)
    vectors = entries[0, [2, 4]][:, None] + 0.1
    assert nearest_entries(vectors, entries).flatten().tolist() == [2, 2]
    entries[0, 4] = entries[0, 2] + 1e-2
    assert nearest_entries(entries[0, [2, 4]][:, None], entries).flatten().tolist() == [2, 4]


@pytest.mark.parametrize("num_tables", [1, 3])
def test_lookup_and_selection_are_equal(num_tables: int) -> None:
    entries = torch.randn(num_tables, 7, 4)
    codes = torch.randint(0, 7, (2, 5, 3))
    expected = np.zeros((2, 5, 12), dtype=np.float32)
    for row, frame, group in np.ndindex(2, 5, 3):
        entry = entries[group % num_tables, codes[row, frame, group]]
        expected[row, frame, 4 * group : 4 * group + 4] = entry
    assert torch.equal(lookup_entries(codes, entries), torch.from_numpy(expected))
    one_hot = torch.nn.functional.one_hot(codes, 7).float()
    assert torch.equal(select_entries(one_hot, entries), torch.from_numpy(expected))


def test_counts_ignore_padding() -> None:
    codes = torch.tensor([[[0, 1], [2, 1], [2, 0]], [[0, 0], [1, 2], [1, 1]]])  # (B, N, G)
    assert torch.equal(count_codes(codes, 4), torch.tensor([[2.0, 2, 2, 0], [2, 3, 1, 0]]))
    padding = torch.tensor([[False, False, True], [False, True, True]])
    assert torch.equal(count_codes(codes, 4, padding), torch.tensor([[2.0, 0, 1, 0], [1, 2, 0, 0]]))


def test_sum_of_probabilities_ignores_padding() -> None:
    probabilities = torch.rand(2, 3, 2, 4)
    padding = torch.tensor([[False, False, True], [False, True, True]])
    expected = probabilities[0, 0] + probabilities[0, 1] + probabilities[1, 0]
    assert_close(sum_probabilities(probabilities, padding), expected)
    assert_close(sum_probabilities(probabilities), probabilities.sum((0, 1)))
    assert sum_probabilities(probabilities.bfloat16()).dtype == torch.float32


def test_perplexity_is_the_exponential_of_the_entropy() -> None:
    distribution = np.random.default_rng(0).dirichlet(np.full(9, 0.5), size=(2, 3))
    expected = np.zeros((2, 3))
    for index in np.ndindex(2, 3):
        expected[index] = math.exp(-sum(p * math.log(p) for p in distribution[index]))
    assert_close(perplexity(torch.from_numpy(distribution)), torch.from_numpy(expected), rtol=2e-6, atol=0)


@pytest.mark.parametrize("size", [2, 5, 320])
def test_perplexity_between_one_entry_and_all(size: int) -> None:
    assert_close(perplexity(torch.full((3, size), 1 / size)), torch.full((3,), float(size)), rtol=1e-4, atol=0)
    assert_close(perplexity(torch.eye(size)[:2]), torch.ones(2), rtol=1e-6, atol=0)


def diversity(probabilities: torch.Tensor) -> float:
    rows, frames = probabilities.shape[:2]
    output = PretrainOutput(
        features=torch.zeros(rows, frames, 1),
        num_frames=(frames,) * rows,
        context=torch.zeros(rows, frames, 1),
        targets=QuantizerOutput(
            quantized=torch.zeros(rows, frames, 1), codes=probabilities.argmax(-1), probabilities=probabilities
        ),
        target_padding_mask=None,
        prediction=LossOutput(
            total=torch.zeros(()), num_predictions=(frames,) * rows, num_correct=torch.zeros(()), num_candidates=2
        ),
    )
    return float(DiversityPenalty()(output))


def test_diversity_is_the_published_formula() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.full(6, 0.3), size=(2, 4, 3))
    total = 0.0
    for group in range(3):
        mean = [np.mean([probabilities[row, n, group, v] for row in range(2) for n in range(4)]) for v in range(6)]
        total += math.exp(-sum(p * math.log(p) for p in mean))
    assert diversity(torch.from_numpy(probabilities)) == pytest.approx((18 - total) / 18, rel=1e-5)


def test_diversity_at_its_ends() -> None:
    uniform = torch.full((2, 5, 2, 320), 1 / 320)
    assert diversity(uniform) == pytest.approx(0, abs=1e-4)  # perplexity G V
    collapsed = torch.zeros(2, 5, 2, 320)
    collapsed[..., 7] = 1
    assert diversity(collapsed) == pytest.approx(638 / 640, rel=1e-6)  # perplexity G: the 0.9969 of a collapsed run
