"""Early stopping of trials by the Hyperband rule of Weights & Biases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from w2vlab.registry import known_names
from w2vlab.sweeps.search.parameters import as_number

_KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")
_MAX_BANDS = 100


@dataclass(frozen=True)
class Hyperband:
    """Stops trials that are not among the best 1/eta when they pass a band.

    A band is a number of validations: a trial that has reached it is compared with the values of all trials after the
    same number of validations.

    Attributes:
        bands: The bands, in ascending order.
        eta: The reciprocal of the share of trials that continue.
        strict: Whether a trial is compared by its value at the band, or by its best value so far.

    Reference:
        Li et al. 2018, arXiv:1603.06560, as implemented by the sweeps of Weights & Biases.
    """

    bands: tuple[int, ...]
    eta: float
    strict: bool

    @staticmethod
    def read(content: Any) -> Hyperband:
        """Reads the key `early_terminate` of a sweep file.

        Raises:
            ValueError: It is not `hyperband` with `min_iter`, or with `max_iter` and `s`.
        """
        if not isinstance(content, dict) or content.get("type") != "hyperband":
            raise ValueError(f"`early_terminate` must have the type hyperband, but is {content}.")
        for key in content:
            if key not in _KEYS:
                raise ValueError(f"Unknown key `early_terminate.{key}`. {known_names(key, _KEYS)}")
        content = {key: as_number(value) for key, value in content.items()}
        eta = content.get("eta", 3)
        if not _is_number(eta) or eta <= 1:
            raise ValueError(f"`early_terminate.eta` must be above 1, but is {eta}.")
        bands = _bands(content, eta)
        if not bands:
            raise ValueError(
                "`early_terminate` must have a band of at least 1 value, but `max_iter`, `eta` and `s` give none."
            )
        return Hyperband(bands, eta, content.get("strict", True) is True)

    def stops(
        self, histories: Mapping[str, Sequence[float]], running: Sequence[str], maximize: bool = False
    ) -> list[str]:
        """Returns the names of the trials to stop.

        Args:
            histories: The values of the metric so far, of all trials, including those that have ended.
            running: The trials that can be stopped.
            maximize: Whether higher values are better.
        """
        signed = {
            name: [-value if maximize else value for value in values if math.isfinite(value)]
            for name, values in histories.items()
        }
        stopped = []
        for name in running:
            values = signed.get(name, [])
            passed = [band for band in self.bands if band <= len(values)]
            if not passed:
                continue
            band = passed[-1]
            at_band = sorted(other[band - 1] for other in signed.values() if len(other) >= band)
            threshold = at_band[int(len(at_band) / self.eta)]
            if (values[band - 1] if self.strict else min(values)) > threshold:
                stopped.append(name)
        return stopped


def _bands(content: Mapping[str, Any], eta: float) -> tuple[int, ...]:
    if "max_iter" in content:
        most, steps = content["max_iter"], content.get("s")
        if not _is_number(most) or not _is_number(steps):
            raise ValueError(f"`early_terminate` must have numbers as `max_iter` and `s`, but has {most} and {steps}.")
        bands = [int(most / eta**step) for step in range(1, int(steps) + 1)]
        return tuple(sorted({band for band in bands if band >= 1}))
    least = content.get("min_iter")
    if not isinstance(least, int) or isinstance(least, bool) or least < 1:
        raise ValueError(f"`early_terminate.min_iter` must be a whole number of at least 1, but is {least}.")
    return tuple(sorted({int(least * eta**step) for step in range(_MAX_BANDS)}))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
