"""Unit quality against plain loops over frames."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from w2vlab.functional.measures.units import (
    bit_rate,
    cluster_purity,
    cooccurrence,
    joint_codes,
    phone_normalized_mutual_information,
    phone_purity,
)


def frames(seed: int = 0, size: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    phones = torch.randint(0, 5, (size,), generator=generator)
    codes = (phones + torch.randint(0, 3, (size,), generator=generator)) % 7
    return codes, phones


def entropy(counts: Counter) -> float:
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values())


def test_counts_equal_a_loop() -> None:
    codes, phones = frames()
    counts = cooccurrence(codes, phones, 7, 5)
    pairs = Counter(zip(codes.tolist(), phones.tolist(), strict=True))
    assert {(v, p): int(counts[v, p]) for v in range(7) for p in range(5) if counts[v, p]} == dict(pairs)


def test_purities_equal_a_loop() -> None:
    """Hsu et al. 2021: the expectation of p(most likely phone | code), and of p(most likely code | phone)."""
    codes, phones = frames(1)
    counts = cooccurrence(codes, phones, 7, 5)
    pairs = list(zip(codes.tolist(), phones.tolist(), strict=True))
    of_code = {v: Counter(p for c, p in pairs if c == v).most_common(1)[0][0] for v in set(codes.tolist())}
    of_phone = {q: Counter(c for c, p in pairs if p == q).most_common(1)[0][0] for q in set(phones.tolist())}
    assert phone_purity(counts) == pytest.approx(sum(of_code[c] == p for c, p in pairs) / len(pairs))
    assert cluster_purity(counts) == pytest.approx(sum(of_phone[p] == c for c, p in pairs) / len(pairs))


def test_pnmi_equals_a_loop() -> None:
    codes, phones = frames(2)
    pairs = list(zip(codes.tolist(), phones.tolist(), strict=True))
    information = (
        entropy(Counter(c for c, _ in pairs)) + entropy(Counter(p for _, p in pairs)) - entropy(Counter(pairs))
    )
    expected = information / entropy(Counter(p for _, p in pairs))
    assert 0.1 < expected < 0.9
    counts = cooccurrence(codes, phones, 7, 5)
    assert phone_normalized_mutual_information(counts) == pytest.approx(expected, rel=1e-10)


def test_pnmi_of_phones_and_of_a_single_code() -> None:
    _, phones = frames()
    assert phone_normalized_mutual_information(cooccurrence(phones, phones, 5, 5)) == pytest.approx(1)
    assert phone_normalized_mutual_information(cooccurrence(0 * phones, phones, 1, 5)) == 0
    assert cluster_purity(cooccurrence(0 * phones, phones, 1, 5)) == 1
    assert math.isnan(phone_normalized_mutual_information(cooccurrence(phones, 0 * phones, 5, 1)))


def test_joint_codes() -> None:
    sequences = [torch.tensor([[0, 1], [1, 0], [0, 1]]), torch.tensor([[1, 0], [1, 1]])]
    (first, second), size = joint_codes(sequences)
    assert size == 3
    assert first[0] == first[2] != first[1] == second[0]
    assert len({*first.tolist(), *second.tolist()}) == 3


def test_bit_rates_equal_a_loop() -> None:
    sequences = [torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([2, 2, 0])]
    runs = [(0, 2), (1, 3), (2, 1), (2, 2), (0, 1)]
    rate = bit_rate(sequences, frames_per_second=50)
    seconds = 9 / 50
    symbols = Counter([0, 0, 1, 1, 1, 2, 2, 2, 0])
    assert rate.frames == pytest.approx(50 * entropy(symbols) / math.log(2))
    assert rate.runs == pytest.approx(5 / seconds * entropy(Counter(v for v, _ in runs)) / math.log(2))
    assert rate.runs_with_lengths == pytest.approx(5 / seconds * entropy(Counter(runs)) / math.log(2))


def test_one_code_has_bit_rate_zero() -> None:
    rate = bit_rate([torch.zeros(9, dtype=torch.long)], 50)
    assert (rate.frames, rate.runs, rate.runs_with_lengths) == (0, 0, 0)
