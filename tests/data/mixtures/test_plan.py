from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from w2vlab.data.mixtures.plan import describe_plan, plan_uses
from w2vlab.data.mixtures.sources import read_sources

HOURS = [100.0, 10.0, 1.0]


def plan(alpha, max_uses=None, hours=HOURS, **options):
    sources = read_sources({name: {"path": name, **options.get(name, {})} for name in "abc"}, "data.corpus")
    return np.array(plan_uses(hours, sources, alpha, max_uses))


def test_the_published_shares():
    """Babu et al. 2021: p proportional to (hours / total) ** alpha; an epoch is as long as all corpora together."""
    for alpha in (0.0, 0.3, 0.5, 1.0):
        expected = (np.array(HOURS) / 111) ** alpha
        audio = plan(alpha) * HOURS
        np.testing.assert_allclose(audio / audio.sum(), expected / expected.sum(), rtol=1e-8)
        assert audio.sum() == pytest.approx(111)


def test_corpora_as_they_are_are_used_exactly_once():
    draws = np.random.default_rng(0)
    for _ in range(200):
        assert plan(1.0, hours=draws.uniform(0.01, 1e5, 3).tolist()).tolist() == [1.0, 1.0, 1.0]


def test_weights_and_limits_of_hours():
    assert (plan(1.0, b={"weight": 2}) * HOURS)[1] == pytest.approx(111 * 20 / 121)
    audio = plan(0.5, a={"max_hours": 25}) * HOURS
    np.testing.assert_allclose(audio / audio.sum(), np.array([25, 10, 1]) ** 0.5 / (25**0.5 + 10**0.5 + 1))
    assert audio.sum() == pytest.approx(36)


def test_what_is_above_the_most_uses_goes_to_the_others():
    free = plan(0.0)
    assert free[2] == pytest.approx(37)
    limited = plan(0.0, max_uses=5)
    assert limited[2] == 5
    assert limited @ HOURS == pytest.approx(111)
    assert limited[0] * HOURS[0] == pytest.approx(111 - 5 - 50 if limited[1] == 5 else (111 - 5) / 2)
    assert plan(0.0, max_uses=1).tolist() == [1.0, 1.0, 1.0]
    assert plan(0.0, max_uses=0.5).tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("alpha", [500.0, 1e9])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("max_uses", [None, 1.0])
def test_extreme_options_give_shares_too(alpha, scale, max_uses):
    """Powers of hours above 1 would overflow, and those of hours below 1 would all be 0."""
    uses = plan(alpha, max_uses, hours=[hours * scale for hours in HOURS])
    assert uses[0] == (1.0 if max_uses else 1.11)
    assert not uses[1:].any()
    heavy = plan(1.0, a={"weight": 1e308}, b={"weight": 1e308}, c={"weight": 1e-300})
    assert (heavy[0] == heavy[1], heavy[2]) == (True, 0.0)


def test_the_plan_in_words():
    first, second = describe_plan(["en", "it"], [1000, 1], [10.0, 1.0], [0.5, 5.0])
    assert (first.share, second.share) == (0.5, 0.5)
    assert str(first) == "en: 1,000 utterances, 10.00 h, used 0.5 times an epoch, 50 % of its audio"
    assert str(replace(first, uses=0.9999)).endswith("used once an epoch, 50 % of its audio")
    assert str(second) == "it: 1 utterance, 1.00 h, used 5 times an epoch, 50 % of its audio"
