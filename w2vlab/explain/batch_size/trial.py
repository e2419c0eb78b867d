"""The trial: measures memory and time of batches, and chooses their size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from w2vlab.explain.batch_size.budget import Batches, Run, choose_batches, rounded_quadratic_seconds
from w2vlab.explain.batch_size.cost_model import BatchShape, CostModel, deviations, fit_cost
from w2vlab.explain.batch_size.fitting_memory import OutOfMemory, largest_that_fits
from w2vlab.explain.batch_size.machines import Machine
from w2vlab.types import Seconds
from w2vlab.utils.messages import count

Stage = Callable[[str, float], AbstractContextManager[Callable[[float], None]]]
"""Shows a stage of a name and so many steps; the context gives the function to call with the steps that are done."""

MAX_DEVIATION = 0.2
"""Median deviation of the predicted times above which the model is refused."""

_LEAST_GROWTH = 0.02
"""By how much more time a large batch takes than an empty one, or nothing can be said about lengths."""

_SMALLER = 0.9
"""By how much batches are made smaller that turn out not to fit."""

_ATTEMPTS = 10
_CHECK_SECONDS = 10.0
_SEARCH_UPDATES = 24
_GIB = 2**30

Measured = list[tuple[BatchShape, Seconds]]
"""Shapes of batches and their times."""


@dataclass(frozen=True)
class Checked:
    """A batch of the chosen size.

    Attributes:
        shape: Its shape.
        time: Its measured time, in seconds.
        peak: Measured peak of the memory, in bytes.
    """

    shape: BatchShape
    time: Seconds
    peak: int


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial.

    Attributes:
        time: The model of the time, in seconds.
        trials: The batches that it was fitted to.
        before: The shortest and the longest batches of the options as they are; empty if they do not fit in memory.
        largest: Largest `batch_seconds` whose batches fit in memory; infinite if a whole update fits.
        batches: The chosen options.
        checks: Their shortest and longest batches.
    """

    time: CostModel
    trials: Measured
    before: Measured
    largest: Seconds
    batches: Batches
    checks: list[Checked]


@dataclass(frozen=True)
class Trial:
    """Measures batches on a machine.

    Attributes:
        run: The options of the run.
        machine: Where updates are computed.
        rounds: How often each batch is timed, after a first time that does not count.
        stage: Shows the progress.
    """

    run: Run
    machine: Machine
    rounds: int
    stage: Stage

    def find(self, seconds_per_micro_batch: Seconds | None = None) -> TrialResult:
        """Chooses the size of batches.

        Args:
            seconds_per_micro_batch: Longest time of a micro-batch; None for any.

        Raises:
            ValueError: One utterance does not fit in memory, or takes too long; or times do not follow the model.
            RunError: The process of a trial has ended.
        """
        fitting = self._measure_memory()
        trials, before = self._measure_times(fitting)
        time = self._fit_time(trials)
        counted = Batches(1.0, rounded_quadratic_seconds(time), 1)
        largest = min(n * seconds * counted.factor(seconds) for seconds, n in fitting.items())
        if largest < self.run.max_seconds * counted.factor(self.run.max_seconds):
            raise self._too_little_memory()
        in_time = math.inf if seconds_per_micro_batch is None else self._bound_of_time(time, seconds_per_micro_batch)
        batches, checks, failed = self._choose(time, counted, min(in_time, largest))
        return TrialResult(time, trials, before, min(largest, failed), batches, checks)

    @property
    def _ends(self) -> list[Seconds]:
        return sorted({self.run.lengths[0], self.run.lengths[-1]})

    def _measure_memory(self) -> dict[Seconds, float]:
        """Returns how many of the shortest and of the longest utterances fit in memory; infinite for a whole update."""
        if self.machine.searches:
            return {seconds: self._search(seconds) for seconds in self._ends}
        measured: list[tuple[BatchShape, float]] = []
        below = dict.fromkeys(self._ends, math.inf)  # batches of so many utterances were found not to fit
        with self.stage("memory", 2 * len(self._ends)) as advance:
            for seconds in self._ends:
                for utterances in (1, self.run.batches.shape(seconds).utterances):
                    while (peak := self._peak(BatchShape(utterances, seconds))) is None:
                        if utterances == 1:
                            raise self._too_little_memory()
                        below[seconds] = utterances
                        utterances //= 2
                    measured.append((BatchShape(utterances, seconds), peak))
                    advance(1)
        memory = fit_cost(*map(list, zip(*measured, strict=True)))
        above = max(peak - memory.predict(shape) for shape, peak in measured)
        free = self.machine.memory - memory.fixed - max(above, 0)
        each = {seconds: memory.of_utterance(seconds) for seconds in self._ends}
        return {t: min(free // each[t] if each[t] else math.inf, below[t] - 1) for t in self._ends}

    def _peak(self, shape: BatchShape) -> float | None:
        """Returns the memory of a batch; None if it does not fit."""
        try:
            return self.machine.run([shape] * 2).peak  # the second update has the state of the optimizer
        except OutOfMemory:
            return None

    def _search(self, seconds: Seconds) -> float:
        """Returns how many utterances of this length fit in memory, by running out of it."""
        # As many as an update of each process has at most, however much more a second of long utterances counts.
        most = max(1, int(4 * self.run.batches.audio(self.run.max_seconds) / seconds))
        with self.stage(f"memory of utterances of {seconds:.3g} s", _SEARCH_UPDATES) as advance:
            found = largest_that_fits(
                lambda utterances: self._fits(BatchShape(utterances, seconds), advance),
                self.run.batches.shape(seconds).utterances,
                most,
            )
        if not found:
            raise self._too_little_memory()
        return math.inf if found == most else found

    def _fits(self, shape: BatchShape, advance: Callable[[float], None]) -> bool:
        try:
            self.machine.run([shape] * 2, advance)
        except OutOfMemory:
            return False
        return True

    def _measure_times(self, fitting: dict[Seconds, float]) -> tuple[Measured, Measured]:
        """Returns the times of batches of several lengths and sizes, and those of the options as they are."""
        most = _SMALLER * min(n * seconds for seconds, n in fitting.items())  # seconds of audio that fit
        now = self.run.batches
        # On a GPU, small batches do not use all of it, so that batches are timed that are as large as the chosen ones.
        audio = max(now.batch_seconds, now.audio(self.run.max_seconds)) if self.machine.searches else now.batch_seconds
        for _ in range(_ATTEMPTS):
            audio = min(audio, most)
            fitted = self._shapes_of(audio)
            current = [now.shape(seconds) for seconds in self._ends]
            current = current if all(shape.utterances * shape.seconds <= most for shape in current) else []
            try:
                times = self._time(list(dict.fromkeys([*fitted, *current])))
            except OutOfMemory:  # more than in the updates that were tried before
                most = _SMALLER * audio
                continue
            return [(shape, times[shape]) for shape in fitted], [(shape, times[shape]) for shape in current]
        raise self._too_little_memory()

    def _shapes_of(self, audio: Seconds) -> list[BatchShape]:
        """Returns batches of several lengths, of this much audio and of half of it."""
        full = [BatchShape(max(1, int(audio / seconds + 1e-9)), seconds) for seconds in self.run.lengths]
        return [
            BatchShape(n, shape.seconds)
            for shape in full
            for n in sorted({max(1, shape.utterances // 2), shape.utterances})
        ]

    def _time(self, shapes: list[BatchShape]) -> dict[BatchShape, Seconds]:
        """Returns the median time of each batch."""
        rounds = self.rounds + 1
        with self.stage(f"time of {count(len(shapes), 'kind')} of batches", rounds * len(shapes)) as advance:
            # In turn, so that a busy machine does not slow down all updates of one shape.
            times = self.machine.run(shapes * rounds, advance).times
        counted = times[len(shapes) :]
        return {shape: statistics.median(counted[number :: len(shapes)]) for number, shape in enumerate(shapes)}

    def _fit_time(self, trials: Measured) -> CostModel:
        """Fits the model of the time.

        Raises:
            ValueError: It does not fit.
        """
        shapes, times = [shape for shape, _ in trials], [time for _, time in trials]
        model = fit_cost(shapes, times)
        off = statistics.median(map(abs, deviations(model, shapes, times)))
        grows = model.linear > 0 and max(map(model.predict, shapes)) > (1 + _LEAST_GROWTH) * model.fixed
        if off > MAX_DEVIATION or not grows:
            measured = ", ".join(f"{shape.utterances} x {shape.seconds:.3g} s: {time:.3g} s" for shape, time in trials)
            why = f"half of them deviate by {off:.0%} or more" if grows else "they hardly grow with the audio"
            raise ValueError(
                f"Times must follow a + b n t + c n t², for n utterances of t seconds, to within {MAX_DEVIATION:.0%}, "
                f"but {why} ({measured}). Run it again while the machine does nothing else, with more `--rounds`."
            )
        return model

    def _bound_of_time(self, time: CostModel, most: Seconds) -> float:
        """Returns the largest `batch_seconds` whose batches take at most this time."""
        least = time.predict(BatchShape(1, self.run.max_seconds))
        if most < least:
            raise ValueError(
                f"`seconds_per_micro_batch` must be at least {least:.3g}, the time of one utterance of "
                f"{self.run.max_seconds:g} s, but is {most:g}."
            )
        return (most - time.fixed) / time.linear

    def _choose(self, time: CostModel, counted: Batches, bound: float) -> tuple[Batches, list[Checked], float]:
        """Chooses batches, and measures the shortest and the longest; smaller ones if they do not fit.

        Returns:
            The batches; their measurements; and a bound of `batch_seconds`, because larger ones did not fit.
        """
        failed = math.inf
        least = self.run.max_seconds * counted.factor(self.run.max_seconds)
        for _ in range(_ATTEMPTS):
            batches = choose_batches(self.run, counted.quadratic_seconds, bound)
            shapes = [batches.shape(seconds) for seconds in self._ends]
            rounds = [min(self.rounds, max(1, int(_CHECK_SECONDS / time.predict(shape)))) for shape in shapes]
            with self.stage(
                f"check of `batch_seconds` {batches.batch_seconds:g}", sum(rounds) + len(shapes)
            ) as advance:
                try:
                    checks = [self._measure(*each, advance) for each in zip(shapes, rounds, strict=True)]
                except OutOfMemory:
                    failed = bound = _SMALLER * batches.batch_seconds
                else:
                    return batches, checks, failed
            if bound < least:
                break
        raise self._too_little_memory()

    def _measure(self, shape: BatchShape, rounds: int, advance: Callable[[float], None]) -> Checked:
        updates = self.machine.run([shape] * (1 + rounds), advance)
        return Checked(shape, statistics.median(updates.times[1:]), updates.peak)

    def _too_little_memory(self) -> ValueError:
        return ValueError(
            f"`memory` must suffice for an update with one utterance of {self.run.max_seconds:g} s, but is "
            f"{self.machine.memory / _GIB:.3g} GiB. Lower `data.max_seconds`, use a smaller model, or see "
            "configs/trainer/activation_checkpointing.yaml."
        )


def spread(times: Sequence[Seconds]) -> float:
    """Returns the longest over the shortest time."""
    return max(times) / min(times)
