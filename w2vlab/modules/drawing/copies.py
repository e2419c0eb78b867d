"""Draws for several masked copies of each utterance, which follow one another in the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from w2vlab.batch import join_masks
from w2vlab.types import Mask, RandomAddress

Value = TypeVar("Value")


def repeated(values: Sequence[Value], copies: int) -> tuple[Value, ...]:
    """Returns what belongs to the rows of all copies, from what belongs to the utterances."""
    return tuple(value for value in values for _ in range(copies))


def address_of_copies(address: RandomAddress, copies: int) -> RandomAddress:
    """Returns the address of the draws for the rows of all copies; the first copy draws what the utterance draws."""
    if copies == 1:
        return address
    return replace(address, ids=tuple(_name(name, number) for name in address.ids for number in range(copies)))


def draw_copies(draw: Callable[[RandomAddress], Mask], address: RandomAddress, copies: int) -> Mask:
    """Draws a mask of each copy of each utterance.

    A masking strategy sees the utterances of one copy at a time, so that the masks of the first copy are those that it
    draws if there are no others.

    Args:
        draw: Draws the masks of B utterances.
        address: The seed.
        copies: Copies of each utterance, R.

    Returns:
        The mask of B R rows.
    """
    if copies == 1:
        return draw(address)
    masks = [draw(replace(address, ids=tuple(_name(name, number) for name in address.ids))) for number in range(copies)]
    joined = join_masks(masks)
    rows = torch.arange(len(joined.frames)).view(copies, -1).T.flatten()  # from copy after copy to utterance after it
    return replace(
        joined,
        frames=joined.frames[rows],
        targets=joined.targets[rows],
        num_targets=tuple(joined.num_targets[row] for row in rows.tolist()),
        channels=None if joined.channels is None else joined.channels[rows],
    )


def _name(name: str, number: int) -> str:
    """Returns the id under which a copy of an utterance draws."""
    return f"{name}/copy {number}" if number else name
