"""What the probe at the end of a run has found: in words, for the loggers, and as plain data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from w2vlab.callbacks.run_view import Bar, Finding
from w2vlab.evaluation.corpus import Seen
from w2vlab.evaluation.gain import Best, Gain
from w2vlab.evaluation.layers import CONTEXT, LATENTS
from w2vlab.evaluation.measure import Advance
from w2vlab.functional.interval import Interval

_BEFORE, _MFCC = "before training", "MFCC"

_FEW = 8
"""Test utterances below which their spread says little of chance."""


def finding(gain: Gain, num_test: int, seen: Seen) -> Finding:
    """Says what was found, in the rows of a table and as bars.

    Args:
        gain: What was found.
        num_test: Utterances that it was found on.
        seen: What the pretraining had of them.
    """
    trained = gain.trained.jackknifed.interval
    rows = {"phones named": f"{_share(trained)} by {_called(gain.trained)}, its best on held-out training utterances"}
    bars = [_bar(_short(gain.trained), trained)]
    if gain.before is not None and gain.over_before is not None:
        interval = gain.before.jackknifed.interval
        words = _too_few(gain.over_before, num_test) if num_test < _FEW else _learned(gain.over_before)
        rows[_BEFORE] = f"{_share(interval)} by {_called(gain.before)}: {words}"
        bars.append(_bar(f"{_BEFORE},\n{_called(gain.before)}", interval))
    else:
        rows[_BEFORE] = "not known, so nobody can tell what training has added"
    interval = gain.mfcc.jackknifed.interval
    words = _too_few(gain.over_mfcc, num_test) if num_test < _FEW else _beside_mfcc(gain.over_mfcc)
    rows[_MFCC] = f"{_share(interval)}: {words}"
    bars.append(_bar(_MFCC, interval))
    rows["tested on"] = f"{num_test} utterances; seen in pretraining: {seen}"
    return Finding("Phones named by a linear probe", tuple(bars), rows)


def _too_few(difference: Interval, num_test: int) -> str:
    return (
        f"the network is at {100 * difference.value:+.1f} points; {num_test} utterances are too few to rule out chance"
    )


def _learned(difference: Interval) -> str:
    if difference.low > 0:
        return f"training has added {_points(difference)}, beyond chance"
    if difference.high < 0:
        return f"training has lost {_points(_turned(difference))}, beyond chance"
    return f"no difference beyond chance ({_points(difference)}), so nothing is shown to be learned of phones"


def _beside_mfcc(difference: Interval) -> str:
    if difference.low > 0:
        return f"the network is better by {_points(difference)}, beyond chance"
    if difference.high < 0:
        return f"still better, by {_points(_turned(difference))}, beyond chance"
    return f"no difference beyond chance ({_points(difference)})"


def _turned(difference: Interval) -> Interval:
    return Interval(-difference.value, -difference.high, -difference.low)


def _share(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _points(difference: Interval) -> str:
    value, low, high = (f"{100 * part:.1f}" for part in (difference.value, difference.low, difference.high))
    return f"{value} points [{low}, {high}]"


def _called(best: Best) -> str:
    return {LATENTS: "the latents", CONTEXT: "the contexts"}.get(best.representation, best.representation)


def _short(best: Best) -> str:
    return f"trained,\n{_called(best)}"


def _bar(name: str, interval: Interval) -> Bar:
    return Bar(name, interval.value, interval.low, interval.high)


def logged(gain: Gain) -> dict[str, float]:
    """Returns what loggers get."""
    values = {"accuracy": gain.trained.probe.accuracy, "mfcc": gain.mfcc.probe.accuracy}
    if gain.before is not None:
        values["before_training"] = gain.before.probe.accuracy
    for name, difference in (("over_before", gain.over_before), ("over_mfcc", gain.over_mfcc)):
        if difference is not None:
            values |= {name: difference.value, f"{name}_low": difference.low, f"{name}_high": difference.high}
    return values


def as_plain(gain: Gain) -> dict[str, Any]:
    """Returns everything as plain data."""
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


class Lines:
    """Prints a line when a stage begins, and when it is done how long that took."""

    @contextmanager
    def stage(self, name: str, total: float) -> Iterator[Advance]:
        """Prints the lines of a stage, one at its half in between."""
        start, done, told = time.monotonic(), 0.0, False

        def advance(steps: float) -> None:
            nonlocal done, told
            done += steps
            if not told and 2 * done >= total > done:
                told = True
                print(f"Phone probe, {name}: {done:.0f} of {total:.0f}", flush=True)

        print(f"Phone probe, {name}: {total:.0f} to do; Ctrl-C leaves it out", flush=True)
        yield advance
        print(f"Phone probe, {name}: done in {time.monotonic() - start:.0f} s", flush=True)
