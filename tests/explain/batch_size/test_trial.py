"""The whole trial, on a machine whose time and memory follow formulas."""

from __future__ import annotations

import io
import math
from contextlib import contextmanager

import numpy as np
import pytest
import yaml
from rich.console import Console

from w2vlab.explain.batch_size.budget import Batches, Run, as_options
from w2vlab.explain.batch_size.cost_model import BatchShape, CostModel
from w2vlab.explain.batch_size.fitting_memory import OutOfMemory
from w2vlab.explain.batch_size.machines import Machine, Updates
from w2vlab.explain.batch_size.steps import TrialSettings
from w2vlab.explain.batch_size.text import as_yaml, print_result, summary
from w2vlab.explain.batch_size.trial import Trial

GIB = 2**30
TIME = CostModel(0.1, 0.01, 0.01 / 25)
MEMORY = CostModel(2 * GIB, 0.05 * GIB, 0.002 * GIB)
BASE = Run(2.0, 15.625, Batches(87.5, None, 64), 1, by_micro_batches=True)


class FakeMachine(Machine):
    """Computes formulas. The first update of a run is slow; `surprise` is memory that only large batches need."""

    def __init__(self, searches, memory=16.0, time=TIME, peak=MEMORY, noise=0.0, surprise=0.0):
        super().__init__(TrialSettings(build_model=None), int(memory * GIB))
        self.searches = searches
        self._time, self._peak, self._surprise = time, peak, surprise
        self._noise = np.random.default_rng(0).normal(1, noise, 100_000).clip(0.1) if noise else np.ones(100_000)
        self.updates: list[BatchShape] = []
        self.killed: list[BatchShape] = []

    def bytes_of(self, shape):
        audio = shape.utterances * shape.seconds
        return int(self._peak.predict(shape) * (1 + self._surprise * (audio > 100)))

    def run(self, shapes, on_update=lambda steps: None):
        times = []
        for number, shape in enumerate(shapes):
            if self.bytes_of(shape) > self.memory:
                self.killed.append(shape)
                raise OutOfMemory
            self.updates.append(shape)
            times.append(self._time.predict(shape) * self._noise[len(self.updates)] * (9 if number == 0 else 1))
            on_update(1)
        return Updates(times, max(map(self.bytes_of, shapes)))


@contextmanager
def silent(name, total):
    yield lambda steps: None


def find(machine, run=BASE, rounds=3, seconds=None):
    return Trial(run, machine, rounds, silent).find(seconds)


@pytest.mark.parametrize("searches", [False, True])
def test_the_chosen_batches_take_the_same_time_and_fill_the_memory(searches):
    machine = FakeMachine(searches)
    result = find(machine)
    assert result.time.quadratic_seconds == pytest.approx(25, rel=1e-6)
    batches = result.batches
    assert batches.quadratic_seconds == 25
    # before, the longest took far longer than the shortest
    assert [shape for shape, _ in result.before] == [BatchShape(43, 2.0), BatchShape(5, 15.625)]
    assert result.before[1][1] / result.before[0][1] > 1.25
    times = [TIME.predict(batches.shape(seconds)) for seconds in np.linspace(2, 15.625, 50)]
    assert max(times) / min(times) < 1.1  # of whole utterances
    for seconds in np.linspace(2, 15.625, 50):
        assert machine.bytes_of(batches.shape(seconds)) <= machine.memory
    # larger batches than `largest` do not fit: the search ends within 5 % of the last utterance
    above = Batches(1.06 * result.largest + 15.625 * (1 + 15.625 / 25), 25, 1)
    assert max(machine.bytes_of(above.shape(seconds)) for seconds in (2.0, 15.625)) > machine.memory
    assert 0.5 * result.largest < batches.batch_seconds <= result.largest
    assert batches.audio(15.625) == pytest.approx(64 * 87.5, rel=1e-4)
    assert [check.shape for check in result.checks] == [batches.shape(2.0), batches.shape(15.625)]
    assert [check.time for check in result.checks] == pytest.approx(
        [TIME.predict(check.shape) for check in result.checks]
    )


def test_a_processor_never_runs_out_of_memory_if_it_is_as_predicted():
    machine = FakeMachine(searches=False)
    find(machine)
    assert machine.killed == []


def test_a_processor_on_which_the_present_batches_do_not_fit_tries_smaller_ones():
    machine = FakeMachine(searches=False, memory=4.0, surprise=0.5)
    result = find(machine)
    assert machine.killed
    for seconds in (2.0, 15.625):
        assert machine.bytes_of(result.batches.shape(seconds)) <= machine.memory


@pytest.mark.parametrize("searches", [False, True])
def test_memory_that_many_updates_need_makes_the_timed_batches_smaller(searches):
    machine = FakeMachine(searches)
    once = machine.run

    def run(shapes, on_update=lambda steps: None):
        if len(shapes) > 10 and max(shape.utterances * shape.seconds for shape in shapes) > 60:
            raise OutOfMemory
        return once(shapes, on_update)

    machine.run = run
    result = find(machine)
    assert 40 < max(shape.utterances * shape.seconds for shape, _ in result.trials) <= 60
    assert result.time.quadratic_seconds == pytest.approx(25, rel=1e-6)


@pytest.mark.parametrize("searches", [False, True])
def test_batches_that_turn_out_too_large_are_made_smaller(searches):
    machine = FakeMachine(searches, surprise=0.3)
    result = find(machine)
    assert machine.killed
    for seconds in (2.0, 15.625):
        assert machine.bytes_of(result.batches.shape(seconds)) <= machine.memory
    assert result.batches.batch_seconds <= result.largest


@pytest.mark.parametrize("searches", [False, True])
def test_an_update_that_fits_stays_one_micro_batch(searches):
    run = Run(2.0, 15.625, Batches(87.5, None, 1), 1, by_micro_batches=True)
    result = find(FakeMachine(searches, memory=1000), run)
    assert result.batches == Batches(pytest.approx(87.5 * (1 + 15.625 / 25)), 25, 1)
    assert result.largest > 1000
    assert math.isinf(result.largest) == searches


def test_the_time_of_a_micro_batch_is_limited():
    result = find(FakeMachine(searches=False), seconds=1.0)
    assert max(check.time for check in result.checks) <= 1.0
    assert result.batches.micro_batches > find(FakeMachine(searches=False)).batches.micro_batches
    least = TIME.predict(BatchShape(1, 15.625))
    with pytest.raises(ValueError, match=f"`seconds_per_micro_batch` must be at least {least:.3g}.* but is 0.2"):
        find(FakeMachine(searches=False), seconds=0.2)


@pytest.mark.parametrize("memory", [0.1, 2.5, 3.2])
@pytest.mark.parametrize("searches", [False, True])
def test_memory_for_one_utterance_is_needed(searches, memory):
    with pytest.raises(
        ValueError, match=r"`memory` must suffice for an update with one utterance of 15\.625 s, but is"
    ):
        find(FakeMachine(searches, memory))


def test_the_options_as_they_are_need_not_fit():
    result = find(FakeMachine(searches=False, memory=4.5))
    assert result.before == []
    assert result.batches.micro_batches > 64
    assert "before: they do not fit" in "\n".join(summary(result, BASE, 4 * GIB))


def test_times_without_a_pattern_are_refused():
    machine = FakeMachine(searches=False)
    machine._noise = np.where(np.arange(10_000) % 8 % 3 == 0, 2.0, 1.0)  # by shape, of which there are eight
    with pytest.raises(ValueError, match=r"Times must follow a .* half of them deviate by .* with more `--rounds`"):
        find(machine)


def test_times_that_do_not_grow_are_refused():
    with pytest.raises(ValueError, match="they hardly grow with the audio"):
        find(FakeMachine(searches=False, time=CostModel(1.0, 0.0, 0.0)))


def test_a_slow_update_among_the_rounds_does_not_count():
    quiet = find(FakeMachine(searches=False))
    machine = FakeMachine(searches=False)
    machine._noise[40] = 50
    assert find(machine).time == quiet.time


def test_utterances_of_one_length():
    run = Run(4.0, 4.0, Batches(8.0, None, 8), 2, by_micro_batches=False)
    result = find(FakeMachine(searches=False, memory=3.0), run)
    assert result.batches.quadratic_seconds is None
    assert len(result.checks) == 1
    assert as_options(run, result.batches)["trainer"] == {"accumulate_grad_batches": result.batches.micro_batches}


def test_what_is_printed_and_written():
    result = find(FakeMachine(searches=False))
    printed = io.StringIO()
    print_result(result, BASE, 16 * GIB, Console(file=printed, width=120))
    text = printed.getvalue()
    assert text.count("+0.0%") + text.count("-0.0%") == len(result.trials) == 8
    assert "5 x 15.6 s" in text
    assert "time of a micro-batch of n x t s: 0.1 + 0.01 n t + 0.0004 n t² s; largest deviation 0.0%" in text
    assert f"an update: {result.batches.micro_batches} micro-batches in place of 64, with 1.56 h of audio" in text
    options = as_options(BASE, result.batches)
    assert yaml.safe_load(as_yaml(options, summary(result, BASE, 16 * GIB))) == options
