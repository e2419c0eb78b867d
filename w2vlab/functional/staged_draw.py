"""Draws a sample whose mean in stages has the expected value of the whole's."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt


def multistage_sample(keys: Sequence[tuple[Hashable, ...]], most: int, draw: np.random.Generator) -> list[int]:
    """Draws units so that their mean in stages (`functional.abx.StagedMean`) estimates that of all without a bias.

    Where there are more groups than may be drawn, groups are drawn evenly and one unit comes from each. Where there are
    fewer, none is left out: each gets as many as the others, or all that it has, and who gets one more is drawn. The
    same then holds for the groups within a group. How many come from where does not depend on what is measured, so by
    induction over the stages the mean of each group has the expected value of the group's, and so have their averages.

    Args:
        keys: Where each unit belongs, from the coarsest to the finest stage, all of the same length.
        most: Units to draw, at least 1; all where there are not more.
        draw: Where randomness comes from.

    Returns:
        Places in `keys`, ascending.

    Reference:
        Cochran 1977, Sampling Techniques, Chapters 5 (stratified) and 10 (several stages).
    """
    return sorted(_sample_units(list(range(len(keys))), keys, 0, min(most, len(keys)), draw))


def _sample_units(
    units: list[int], keys: Sequence[tuple[Hashable, ...]], stage: int, number: int, draw: np.random.Generator
) -> list[int]:
    if number >= len(units):
        return units
    if stage == len(keys[units[0]]):
        return [units[place] for place in draw.choice(len(units), number, replace=False)]
    groups: dict[Hashable, list[int]] = {}
    for unit in units:
        groups.setdefault(keys[unit][stage], []).append(unit)
    shares = _even_shares(np.array([len(group) for group in groups.values()]), number, draw)
    return [
        unit
        for group, share in zip(groups.values(), shares.tolist(), strict=True)
        if share
        for unit in _sample_units(group, keys, stage + 1, share, draw)
    ]


def _even_shares(sizes: npt.NDArray[np.int64], number: int, draw: np.random.Generator) -> npt.NDArray[np.int64]:
    """Divides `number` evenly among groups, none of which gets more than it has; what is left over is drawn."""
    level = 0  # what each group gets, or all that it has
    while np.minimum(sizes, level + 1).sum() <= number:
        level += 1
    shares = np.minimum(sizes, level)
    larger = np.flatnonzero(sizes > level)
    shares[draw.choice(larger, number - shares.sum(), replace=False)] += 1
    return shares
