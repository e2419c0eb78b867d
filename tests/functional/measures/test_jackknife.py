"""The jackknife's interval: that of a mean, and it always holds its figure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from w2vlab.functional.measures.interval import Interval
from w2vlab.functional.measures.jackknife import JackknifeEstimate
from w2vlab.functional.measures.student import t_quantile

SHARES = st.floats(0, 1)


def mean_without_each(values: np.ndarray) -> JackknifeEstimate:
    return JackknifeEstimate(float(values.mean()), (values.sum() - values) / (len(values) - 1), -math.inf, math.inf)


def test_interval_of_a_mean_is_that_of_student() -> None:
    values = np.random.default_rng(0).normal(size=12)
    found = mean_without_each(values).interval
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


@pytest.mark.parametrize("freedom", [1.0, 1.7, 4.0, 49.0, 1e6])
def test_quantile_equals_scipy(freedom: float) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_difference_is_paired() -> None:
    one, other = np.random.default_rng(1).normal(size=(2, 30))
    one += other  # what they have in common is in neither
    found = mean_without_each(one).minus(mean_without_each(other))
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    same = mean_without_each(one).minus(mean_without_each(one))
    assert same == Interval(0.0, 0.0, 0.0)


def test_bias_of_a_variance_is_removed() -> None:
    """The jackknife turns the variance with n into that with n - 1."""
    values = np.random.default_rng(2).random(9)
    without = np.array([np.delete(values, place).var() for place in range(9)])
    found = JackknifeEstimate(float(values.var()), without).bias_corrected()
    assert found.value == pytest.approx(values.var(ddof=1))
    spread = JackknifeEstimate(float(values.var()), without).interval
    assert found.interval.high - found.value == pytest.approx(spread.high - spread.value)


@pytest.mark.parametrize("without", [[], [0.4], [0.4, math.nan, 0.5]], ids=["none", "one", "nothing left"])
def test_without_a_variance_the_interval_is_the_full_range(without: list[float]) -> None:
    figure = JackknifeEstimate(0.4, np.array(without))
    assert figure.interval == figure.bias_corrected().interval == Interval(0.4, 0.0, 1.0)
    assert figure.minus(figure) == Interval(0.0, -1.0, 1.0)


@given(value=SHARES, without=st.lists(SHARES | st.just(math.nan), max_size=8), other=SHARES, draw=st.randoms())
def test_every_interval_contains_its_value(value: float, without: list[float], other: float, draw) -> None:
    figure = JackknifeEstimate(value, np.array(without))
    shuffled = JackknifeEstimate(other, np.array(draw.sample(without, len(without))))
    for interval in (
        figure.interval,
        figure.bias_corrected().interval,
        figure.minus(shuffled),
        shuffled.minus(figure),
        figure.bias_corrected().minus(shuffled.bias_corrected()),
    ):
        assert interval.low <= interval.value <= interval.high
        assert all(math.isfinite(end) for end in (interval.low, interval.high))
