"""From what batches cost to the options of the data."""

from __future__ import annotations

import numpy as np
import pytest

from w2vlab.data.batches.bucketing import bucket_limits, form_batches
from w2vlab.explain.batch_size.budget import (
    Batches,
    Run,
    as_options,
    choose_batches,
    fuse_seconds,
    rounded_quadratic_seconds,
)
from w2vlab.explain.batch_size.cost_model import BatchShape, CostModel


def base(processes=1, micro_batches=64, batch_seconds=87.5):
    return Run(2.0, 15.625, Batches(batch_seconds, None, micro_batches), processes, by_micro_batches=True)


def test_batches_have_as_many_utterances_as_count_at_most_batch_seconds():
    assert Batches(87.5, None, 1).shape(15.625) == BatchShape(5, 15.625)
    assert Batches(0.3, None, 1).shape(0.1) == BatchShape(3, 0.1)
    # with q = 20, 10 s count as 15 and 2 s as 2.2
    assert Batches(45, 20, 1).shape(10.0) == BatchShape(3, 10.0)
    assert Batches(45, 20, 1).shape(2.0) == BatchShape(20, 2.0)
    assert Batches(1, None, 1).shape(2.0) == BatchShape(1, 2.0)


@pytest.mark.parametrize("processes", [1, 8])
@pytest.mark.parametrize("quadratic_seconds", [None, 40.0, 7.0])
@pytest.mark.parametrize("most", [90.0, 300.0, 1e9])
def test_an_update_of_the_longest_utterances_keeps_its_audio(processes, quadratic_seconds, most):
    run = base(processes, micro_batches=64 // processes)
    batches = choose_batches(run, quadratic_seconds, most)
    assert batches.audio(15.625) * processes == pytest.approx(64 * 87.5, rel=1e-4)
    assert batches.batch_seconds <= most + 1e-3
    # no fewer and larger micro-batches are possible
    fewer = batches.micro_batches - 1
    assert fewer == 0 or batches.audio(15.625) * batches.factor(15.625) / fewer > most
    # and short utterances never have less than the long ones
    assert batches.audio(2.0) >= batches.audio(15.625)


def test_a_micro_batch_has_one_of_the_longest_utterances():
    run = Run(1.0, 10.0, Batches(15.0, None, 1), 1, by_micro_batches=True)
    assert choose_batches(run, None, most=12.0) == Batches(10.0, None, 2)


def test_rounding_loses_no_utterance():
    run = Run(1.0, 3.3, Batches(3 * 3.3 + 1e-12, None, 1), 1, by_micro_batches=True)
    for quadratic_seconds in (None, 1.234, 7.0, 33.33):
        assert choose_batches(run, quadratic_seconds, 1e9).shape(3.3).utterances == 3


def test_batches_that_are_planned_take_the_same_time():
    time = CostModel(0.2, 0.02, 0.02 / 30)
    lengths = np.random.default_rng(0).uniform(2, 15.625, 20_000)
    spread = []
    for batches in (Batches(300.0, None, 1), Batches(300.0 * 1.4, rounded_quadratic_seconds(time), 1)):
        q = batches.quadratic_seconds
        costs = lengths if q is None else lengths + lengths**2 / q
        planned = form_batches(costs, bucket_limits(costs, 60), batches.batch_seconds)
        shapes = [BatchShape(len(planned[i]), lengths[planned[i]].max()) for i in range(len(planned))]
        times = np.array([time.predict(shape) for shape in shapes if shape.utterances > 5])
        spread.append(times.std() / times.mean())
    assert spread[1] < 0.3 * spread[0]


def test_options_are_those_by_which_the_run_fixes_its_update():
    batches = Batches(120.5, 33.0, 6)
    assert as_options(base(processes=8), batches) == {
        "data": {"batch_seconds": 120.5, "quadratic_seconds": 33.0, "micro_batches": 48}
    }
    accumulated = Run(2.0, 15.625, Batches(87.5, None, 8), 8, by_micro_batches=False)
    assert as_options(accumulated, batches) == {
        "data": {"batch_seconds": 120.5, "quadratic_seconds": 33.0},
        "trainer": {"accumulate_grad_batches": 6},
    }


def test_lengths_go_from_the_shortest_to_the_longest():
    assert base().lengths == pytest.approx(np.linspace(2, 15.625, 4).tolist())
    assert Run(4.0, 4.0, Batches(8, None, 1), 1, True).lengths == [4.0]


def test_quadratic_seconds_have_four_digits():
    assert rounded_quadratic_seconds(CostModel(0, 1, 1 / 36.123456)) == 36.12
    assert rounded_quadratic_seconds(CostModel(0, 1, 0)) is None


def test_micro_batches_of_a_run_are_fused_up_to_the_audio_of_the_longest_utterances():
    # 400 s, or with q = 15.625 200 s, because those of 15.625 s count twice
    assert fuse_seconds(base(), Batches(400, None, 14)) == 400
    assert fuse_seconds(base(), Batches(400, 15.625, 28)) == 200
    assert fuse_seconds(base(), Batches(174, None, 33)) is None  # less than two micro-batches
    assert (
        fuse_seconds(Run(2.0, 15.625, Batches(87.5, None, 64), 1, by_micro_batches=False), Batches(400, None, 14))
        is None
    )
