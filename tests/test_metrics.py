"""What is measured of codebooks and of speed."""

from __future__ import annotations

import time

import pytest
import torch
from torch.testing import assert_close

from w2vlab.metrics import AudioRate, CodebookMeter, codebook_statistics
from w2vlab.types import QuantizerOutput


def output_of(codes: torch.Tensor, probabilities: torch.Tensor | None = None) -> QuantizerOutput:
    return QuantizerOutput(torch.zeros(*codes.shape[:2], 1), codes, probabilities)


def test_statistics_at_their_ends() -> None:
    uniform = codebook_statistics(torch.full((2, 320), 5.0), torch.full((2, 320), 0.3))
    assert uniform["perplexity_hard"] == pytest.approx(640, rel=1e-4)
    assert uniform["perplexity_soft"] == pytest.approx(640, rel=1e-4)
    assert uniform["usage"] == 1
    assert uniform["num_used"] == 640
    collapsed = torch.zeros(2, 320)
    collapsed[:, 3] = 1000
    statistics = codebook_statistics(collapsed, None)
    assert statistics["perplexity_hard"] == pytest.approx(2, rel=1e-5)
    assert statistics["usage"] == pytest.approx(2 / 640)
    assert "perplexity_soft" not in statistics


def test_statistics_of_nothing_are_finite() -> None:
    assert all(value.isfinite() for value in codebook_statistics(torch.zeros(2, 4), torch.zeros(2, 4)).values())


def test_meter_counts_many_batches_as_one() -> None:
    torch.manual_seed(0)
    probabilities = torch.rand(4, 6, 2, 5).softmax(-1)
    codes = torch.randint(0, 5, (4, 6, 2))  # drawn with noise: statistics count the assignment without it
    padding = torch.arange(6)[None] >= torch.tensor([6, 2, 4, 5])[:, None]
    meter = CodebookMeter(2, 5)
    for rows in (slice(0, 1), slice(1, 4)):
        meter.update(output_of(codes[rows], probabilities[rows]), padding[rows])
    assert torch.equal(meter.counts.sum(1), torch.tensor([17.0, 17.0]))
    expected = torch.zeros(2, 5)
    for row, frame in (~padding).nonzero().tolist():
        for group in range(2):
            expected[group, probabilities[row, frame, group].argmax()] += 1
    assert torch.equal(meter.counts, expected)
    assert_close(meter.probabilities, probabilities[~padding].sum(0))
    expected_values = codebook_statistics(expected, probabilities[~padding].sum(0))
    for name, value in meter.compute().items():
        assert_close(value, expected_values[name])


def test_meter_without_probabilities_counts_the_codes() -> None:
    meter = CodebookMeter(1, 3)
    meter.update(output_of(torch.tensor([[[0], [2], [2]]])))
    assert torch.equal(meter.counts, torch.tensor([[1.0, 0.0, 2.0]]))
    assert "perplexity_soft" not in meter.compute()


def test_rate_is_zero_before_the_first_batch() -> None:
    assert AudioRate().read() == 0


def test_rate_over_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    rate = AudioRate(window=3)
    for seconds in (100.0, 10.0, 20.0, 30.0):
        now += 2.0
        rate.add(seconds)
    assert rate.read() == 60 / 6  # the first batch has left the window
    now += 1000.0  # a validation
    rate.restart()
    now += 4.0
    rate.add(8.0)
    assert rate.read() == 2
