"""Multistage sampling, for unbiased estimates of a mean that is computed in stages."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt


def multistage_sample(keys: Sequence[tuple[Hashable, ...]], most: int, generator: np.random.Generator) -> list[int]:
    """Draws a sample of units whose staged mean (`measures.abx.StagedMean`) is an unbiased estimate of that of all.

    If there are more groups than units to draw, groups are sampled uniformly, with one unit of each. Otherwise all
    groups are used, with equal numbers of units, or all units of smaller groups; a remainder is assigned at random. The
    same is repeated for the groups within a group. The sample sizes do not depend on the values, so by induction over
    the stages the expected mean of the sample of each group is the mean of the group.

    Args:
        keys: Groups of each unit, from the coarsest to the finest stage; all of the same length.
        most: Maximum number of units to draw, at least 1.
        generator: Random generator.

    Returns:
        Indices in `keys`, ascending.

    Reference:
        Cochran 1977, Sampling Techniques, Chapters 5 (stratified) and 10 (several stages).
    """
    return sorted(_sample_units(list(range(len(keys))), keys, 0, min(most, len(keys)), generator))


def _sample_units(
    units: list[int], keys: Sequence[tuple[Hashable, ...]], stage: int, number: int, generator: np.random.Generator
) -> list[int]:
    if number >= len(units):
        return units
    if stage == len(keys[units[0]]):
        return [units[index] for index in generator.choice(len(units), number, replace=False)]
    groups: dict[Hashable, list[int]] = {}
    for unit in units:
        groups.setdefault(keys[unit][stage], []).append(unit)
    sample_sizes = _allocate(np.array([len(group) for group in groups.values()]), number, generator)
    return [
        unit
        for group, size in zip(groups.values(), sample_sizes.tolist(), strict=True)
        if size
        for unit in _sample_units(group, keys, stage + 1, size, generator)
    ]


def _allocate(sizes: npt.NDArray[np.int64], number: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Divides `number` evenly among groups of `sizes`, at most the size of each; a remainder is assigned at random."""
    per_group = 0
    while np.minimum(sizes, per_group + 1).sum() <= number:
        per_group += 1
    allocated = np.minimum(sizes, per_group)
    larger = np.flatnonzero(sizes > per_group)
    allocated[generator.choice(larger, number - allocated.sum(), replace=False)] += 1
    return allocated
