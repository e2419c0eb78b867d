"""What is measured of codebooks and of speed."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from tests.helpers.clock import Clock
from w2vlab.metrics import CodebookMeter, RateMeter, codebook_statistics, matmul_rate
from w2vlab.types import QuantizerOutput


def output_of(codes: torch.Tensor, probabilities: torch.Tensor | None = None) -> QuantizerOutput:
    return QuantizerOutput(quantized=torch.zeros(*codes.shape[:2], 1), codes=codes, probabilities=probabilities)


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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("w2vlab.metrics.time", clock)
    return clock


def do_update(meter: RateMeter, clock: Clock, seconds: float, *micro_batches: tuple[float, ...]) -> None:
    clock.now += seconds
    for amounts in micro_batches:
        meter.add(*amounts)
    meter.end_update()


def test_the_rate_is_none_before_the_first_update(clock: Clock) -> None:
    meter = RateMeter()
    clock.now += 1.0
    assert meter.read() is None
    meter.add(3.0)
    assert meter.read() is None


def test_rates_over_a_window(clock: Clock) -> None:
    meter = RateMeter(window=3)
    for audio in (100.0, 10.0, 20.0, 30.0):
        do_update(meter, clock, 2.0, (audio, 1.0))
    assert meter.read().tolist() == [60 / 6, 3 / 6], "the first micro-batch has left the window"


def test_a_start_discards_earlier_measurements(clock: Clock) -> None:
    meter = RateMeter(window=3)
    do_update(meter, clock, 2.0, (100.0,))
    clock.now += 1000.0  # a validation
    meter.add(7.0)  # of an update that the start cuts in two
    meter.restart()
    do_update(meter, clock, 4.0, (8.0,))
    assert meter.read().tolist() == [2.0]


def test_the_update_after_a_start_counts_only_until_there_is_another(clock: Clock) -> None:
    meter = RateMeter(window=3)
    do_update(meter, clock, 50.0, (10.0,))
    assert meter.read().tolist() == [0.2]
    do_update(meter, clock, 5.0, (10.0,))
    assert meter.read().tolist() == [2.0]
    do_update(meter, clock, 3.0, (14.0,))
    assert meter.read().tolist() == [3.0]


def test_a_window_has_whole_updates(clock: Clock) -> None:
    """Two micro-batches are asked for, and an update has three: it is one update, and never a part of one."""
    meter = RateMeter(window=2)
    for seconds in (1.0, 2.0, 4.0):
        do_update(meter, clock, seconds, (1.0,), (1.0,), (2.0,))
        meter.read()
    assert meter.read().tolist() == [4.0 / 4.0]
    meter.add(1000.0)
    clock.now += 1.0
    assert meter.read().tolist() == [4.0 / 4.0]
    meter = RateMeter(window=4)
    for seconds in (1.0, 2.0, 4.0):
        do_update(meter, clock, seconds, (1.0,), (1.0,), (2.0,))
    assert meter.read().tolist() == [8.0 / 6.0], "four micro-batches are more than one update, and so two"


def test_what_is_not_known_spoils_nothing_else(clock: Clock) -> None:
    meter = RateMeter()
    do_update(meter, clock, 2.0, (math.nan, 4.0))
    unknown, known = meter.read().tolist()
    assert math.isnan(unknown)
    assert known == 2.0


@pytest.mark.parametrize("rate", [2e8, 1e11, 6e14])
def test_a_device_of_any_speed_is_measured_in_a_moment(
    rate: float, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a processor that computes 16 bits in software to a GPU."""
    sizes = []

    def multiply(a: torch.Tensor, b: torch.Tensor) -> None:
        assert a.shape == b.shape
        sizes.append(len(a))
        clock.now += 2 * len(a) ** 3 / rate + (0.3 if sizes.count(len(a)) == 1 else 0.0)  # the first one is slow

    monkeypatch.setattr(torch, "mm", multiply)
    monkeypatch.setattr(torch, "randn", lambda *size, **_: torch.empty(*size, device="meta"))
    assert matmul_rate(torch.device("cpu"), torch.bfloat16) == pytest.approx(rate, rel=1e-6)
    assert sizes == sorted(sizes)
    assert clock.now - 0.3 * len(set(sizes)) < 0.5
    assert sizes[-1] == {2e8: 128, 1e11: 1024, 6e14: 8192}[rate]


def test_products_that_wait_for_another_process_do_not_count(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three are held up for a while: a small one that looks slow says nothing of the device."""
    sizes = []

    def multiply(a: torch.Tensor, b: torch.Tensor) -> None:
        sizes.append(len(a))
        clock.now += 2 * len(a) ** 3 / 1e11 + (0.006 if len(sizes) % 3 else 0.0)

    monkeypatch.setattr(torch, "mm", multiply)
    monkeypatch.setattr(torch, "randn", lambda *size, **_: torch.empty(*size, device="meta"))
    assert matmul_rate(torch.device("cpu"), torch.float32) == pytest.approx(1e11, rel=1e-6)
    assert sizes[-1] == 1024


def test_the_rate_is_that_of_real_products() -> None:
    state = torch.random.get_rng_state()
    rate = matmul_rate(torch.device("cpu"), torch.float32)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert 1e7 < rate < 1e16
