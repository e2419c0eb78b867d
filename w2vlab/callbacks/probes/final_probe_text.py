"""The result of the final probe as text, as metrics and as plain data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from w2vlab.callbacks.probes.finding import Bar, ProbeResult
from w2vlab.evaluation.features.corpus import Seen
from w2vlab.evaluation.features.layers import CONTEXT, LATENTS
from w2vlab.evaluation.tasks.gain import Best, Gain
from w2vlab.evaluation.tasks.measure import Advance
from w2vlab.functional.measures.interval import Interval

_BEFORE, _MFCC = "before training", "MFCC"

_MIN_TEST_UTTERANCES = 8
"""With fewer test utterances the confidence intervals are not reliable."""


def describe_gain(gain: Gain, num_test: int, seen: Seen) -> ProbeResult:
    """Returns the result as rows of a table and as bars.

    Args:
        gain: The result of the probe.
        num_test: Number of test utterances.
        seen: Which of them were part of the pretraining data.
    """
    trained = gain.trained.jackknifed.interval
    enough = num_test >= _MIN_TEST_UTTERANCES
    rows = {
        "phones named": f"{_percent(trained)} on {_layer_name(gain.trained)}, chosen on held-out training utterances"
    }
    bars = [_bar(f"trained,\n{_layer_name(gain.trained)}", trained)]
    if gain.before is not None and gain.over_before is not None:
        interval = gain.before.jackknifed.interval
        text = _compare_with_untrained(gain.over_before) if enough else _too_few(gain.over_before, num_test)
        rows[_BEFORE] = f"{_percent(interval)} on {_layer_name(gain.before)}: {text}"
        bars.append(_bar(f"{_BEFORE},\n{_layer_name(gain.before)}", interval))
    else:
        rows[_BEFORE] = "unknown, so the gain by training cannot be measured"
    interval = gain.mfcc.jackknifed.interval
    text = _compare_with_mfcc(gain.over_mfcc) if enough else _too_few(gain.over_mfcc, num_test)
    rows[_MFCC] = f"{_percent(interval)}: {text}"
    bars.append(_bar(_MFCC, interval))
    rows["tested on"] = f"{num_test} utterances; seen in pretraining: {seen}"
    return ProbeResult("Phone accuracy of a linear probe", tuple(bars), rows)


def _too_few(difference: Interval, num_test: int) -> str:
    return f"the network is at {100 * difference.value:+.1f} points; {num_test} utterances are too few for significance"


def _compare_with_untrained(difference: Interval) -> str:
    if difference.low > 0:
        return f"training has gained {_points(difference)}, significant"
    if difference.high < 0:
        return f"training has lost {_points(_negated(difference))}, significant"
    return f"no significant difference ({_points(difference)}), so no gain by training is shown"


def _compare_with_mfcc(difference: Interval) -> str:
    if difference.low > 0:
        return f"the network is better by {_points(difference)}, significant"
    if difference.high < 0:
        return f"better than the network by {_points(_negated(difference))}, significant"
    return f"no significant difference ({_points(difference)})"


def _negated(difference: Interval) -> Interval:
    return Interval(-difference.value, -difference.high, -difference.low)


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _points(difference: Interval) -> str:
    value, low, high = (f"{100 * part:.1f}" for part in (difference.value, difference.low, difference.high))
    return f"{value} points [{low}, {high}]"


def _layer_name(best: Best) -> str:
    return {LATENTS: "the latents", CONTEXT: "the contexts"}.get(best.representation, best.representation)


def _bar(name: str, interval: Interval) -> Bar:
    return Bar(name, interval.value, interval.low, interval.high)


def gain_metrics(gain: Gain) -> dict[str, float]:
    """Returns the metrics to log, by name."""
    values = {"accuracy": gain.trained.probe.accuracy, "mfcc": gain.mfcc.probe.accuracy}
    if gain.before is not None:
        values["before_training"] = gain.before.probe.accuracy
    for name, difference in (("over_before", gain.over_before), ("over_mfcc", gain.over_mfcc)):
        if difference is not None:
            values |= {name: difference.value, f"{name}_low": difference.low, f"{name}_high": difference.high}
    return values


def gain_as_plain_data(gain: Gain) -> dict[str, Any]:
    """Returns all results as plain data for JSON."""
    sources = {"trained": gain.trained, "before_training": gain.before, "mfcc": gain.mfcc}
    differences = {"over_before": gain.over_before, "over_mfcc": gain.over_mfcc}
    return {
        **{name: None if best is None else _plain_best(best) for name, best in sources.items()},
        **{name: None if difference is None else asdict(difference) for name, difference in differences.items()},
    }


def _plain_best(best: Best) -> dict[str, Any]:
    return {
        "representation": best.representation,
        "accuracy": asdict(best.jackknifed.interval),
        "held_out": dict(best.held_out),
        "probe": asdict(best.probe),
    }


class StagePrinter:
    """Prints a line at the start of a stage, and its duration at the end."""

    @contextmanager
    def stage(self, name: str, total: float) -> Iterator[Advance]:
        """Prints the start, the half and the end of a stage."""
        start, done, half_printed = time.monotonic(), 0.0, False

        def advance(steps: float) -> None:
            nonlocal done, half_printed
            done += steps
            if not half_printed and 2 * done >= total > done:
                half_printed = True
                print(f"Phone probe, {name}: {done:.0f} of {total:.0f}", flush=True)

        print(f"Phone probe, {name}: {total:.0f} to do; Ctrl-C skips it", flush=True)
        yield advance
        print(f"Phone probe, {name}: done in {time.monotonic() - start:.0f} s", flush=True)
