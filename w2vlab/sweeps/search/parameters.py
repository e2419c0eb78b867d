"""The parameters of a sweep and their distributions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from w2vlab.registry import did_you_mean

_NEEDS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max"),
    "log_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "q_log_uniform": ("min", "max"),
    "q_log_uniform_values": ("min", "max"),
    "inv_log_uniform": ("min", "max"),
    "inv_log_uniform_values": ("min", "max"),
    "normal": (),
    "q_normal": (),
    "log_normal": (),
    "q_log_normal": (),
    "beta": (),
    "q_beta": (),
}
"""Supported distributions, with their required options."""

_CATEGORICAL = ("categorical", "categorical_w_probabilities")

_NUMBERS = ("min", "max", "mu", "sigma", "a", "b", "q")

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")

_OPTIONS = ("value", "values", "probabilities", "distribution", "min", "max", "mu", "sigma", "a", "b", "q")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep.

    Attributes:
        name: Name of the option, without hyphens.
        distribution: Name of the distribution in Weights & Biases.
        options: Options of the distribution, as in the file.
    """

    name: str
    distribution: str
    options: Mapping[str, Any]

    @staticmethod
    def of_values(name: str, values: list[Any]) -> Parameter:
        """Returns a categorical parameter."""
        return Parameter(name, "categorical", {"values": values})

    def values(self) -> list[Any]:
        """Returns all values, for a grid search.

        Raises:
            ValueError: The distribution is continuous.
        """
        if self.distribution == "constant":
            return [self.options["value"]]
        if self.distribution in _CATEGORICAL:
            return list(self.options["values"])
        if self.distribution == "int_uniform":
            return list(range(self.options["min"], self.options["max"] + 1))
        raise ValueError(
            f"`{self.name}` must have `values` for a grid, but is {self.distribution}. Or set `method` to random."
        )

    def sample(self, generator: np.random.Generator) -> Any:
        """Draws a value."""
        options = self.options
        if self.distribution == "constant":
            return options["value"]
        if self.distribution in _CATEGORICAL:
            # By index, because NumPy would convert the values to an array, and numbers among strings to strings.
            return options["values"][int(generator.choice(len(options["values"]), p=options.get("probabilities")))]
        if self.distribution == "int_uniform":
            return int(generator.integers(options["min"], options["max"], endpoint=True))
        drawn = self._draw(generator, self.distribution.removeprefix("q_"))
        if self.distribution.startswith("q_"):
            step = options.get("q", 1)
            drawn = round(drawn / step) * step
            return int(drawn) if isinstance(step, int) else drawn
        return drawn

    def _draw(self, generator: np.random.Generator, kind: str) -> float:
        low, high = self.options.get("min", 0.0), self.options.get("max", 1.0)
        if kind == "uniform":
            return float(generator.uniform(low, high))
        if kind.endswith("_values"):
            low, high = math.log(low), math.log(high)
        if kind.startswith("log_uniform"):
            return math.exp(generator.uniform(low, high))
        if kind.startswith("inv_log_uniform"):
            # Uniform in the logarithm of the inverse; the limits are those of that logarithm, or of the value itself.
            return math.exp(generator.uniform(low, high) * (1 if kind.endswith("_values") else -1))
        if kind == "beta":
            return float(generator.beta(self.options.get("a", 1), self.options.get("b", 1)))
        normal = float(generator.normal(self.options.get("mu", 0), self.options.get("sigma", 1)))
        return math.exp(normal) if kind == "log_normal" else normal


def read_parameter(name: str, content: Any) -> Parameter:
    """Reads the description of one parameter.

    Raises:
        ValueError: The description is invalid, or has no values.
    """
    if not isinstance(content, dict):
        raise ValueError(f"`{name}` must be a mapping with `value`, `values` or a distribution, but is {content}.")
    for key in content:
        if key not in _OPTIONS:
            near = did_you_mean(str(key), _OPTIONS)
            raise ValueError(f"`{name}` must have the keys {', '.join(_OPTIONS)}, but has `{key}`.{near}")
    kind = content.get("distribution") or _kind({key: as_number(value) for key, value in content.items()})
    if kind not in _NEEDS:
        near = did_you_mean(str(kind), _NEEDS)
        raise ValueError(f"`{name}` must have `value`, `values`, or a known distribution, but has {content}.{near}")
    for option in _NEEDS[kind]:
        if option not in content:
            raise ValueError(f"`{name}` must have `{option}` for the distribution {kind}, but has {content}.")
    content = {key: as_number(value) if key in _NUMBERS else value for key, value in content.items()}
    if isinstance(content.get("probabilities"), list):
        content["probabilities"] = list(map(as_number, content["probabilities"]))
    _check(name, kind, content)
    return Parameter(name, kind, content)


def as_number(value: Any) -> Any:
    """Converts strings such as `1e-5` to numbers, and returns other values unchanged.

    YAML 1.1, which PyYAML and Weights & Biases implement, parses `1e-5` as a string; a number must be `1.0e-5`.
    """
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _kind(content: Mapping[str, Any]) -> str | None:
    """Returns the default distribution of a description without the key `distribution`."""
    if "value" in content:
        return "constant"
    if "values" in content:
        return "categorical"
    if "min" in content and "max" in content:
        return "int_uniform" if all(isinstance(content[end], int) for end in ("min", "max")) else "uniform"
    return None


def _check(name: str, kind: str, content: Mapping[str, Any]) -> None:
    if kind in _CATEGORICAL:
        values, shares = content["values"], content.get("probabilities")
        if not isinstance(values, list) or not values:
            raise ValueError(f"`{name}` must have at least one of `values`, but has {values}.")
        fits = isinstance(shares, list) and len(shares) == len(values) and all(map(_is_number, shares))
        if shares is not None and not (fits and abs(sum(shares) - 1) <= 1e-6 and min(shares) >= 0):
            raise ValueError(f"`{name}` must have one of `probabilities` for each value, with sum 1, but has {shares}.")
        return
    for option in _NUMBERS[2:]:
        if option in content and not _is_number(content[option]):
            raise ValueError(f"`{name}` must have a number as `{option}`, but has {content[option]}.")
    for option in ("sigma", "a", "b", "q"):
        if content.get(option, 1) <= 0:
            raise ValueError(f"`{name}` must have `{option}` above 0, but has {content[option]}.")
    if "min" not in _NEEDS[kind]:
        return
    low, high = content["min"], content["max"]
    whole = kind != "int_uniform" or (isinstance(low, int) and isinstance(high, int))
    if not _is_number(low) or not _is_number(high) or not whole:
        raise ValueError(f"`{name}` must have numbers as `min` and `max`, but has {low} and {high}.")
    if low >= high:
        raise ValueError(f"`{name}` must have `min` below `max`, but has {low} and {high}.")
    if kind.endswith("_values") and low <= 0:
        raise ValueError(f"`{name}` must have `min` above 0 for {kind}, but has {low}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
