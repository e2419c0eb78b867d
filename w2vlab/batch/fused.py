"""Micro-batches as one batch, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TypeVar

import torch
from torch import Tensor

from w2vlab.batch.audio import AudioBatch, CleanAudio, MicroBatch
from w2vlab.batch.draws import Draws, Mask

Value = TypeVar("Value")


def join_micro_batches(batches: Sequence[AudioBatch], numbers: Sequence[int]) -> AudioBatch:
    """Returns one batch of several micro-batches, padded to the longest, with their draws.

    Args:
        batches: Micro-batches of one process and one update, as they are apart.
        numbers: Number of each in the update.
    """
    draws = [batch.draws for batch in batches]
    made = [one for one in draws if one is not None]
    return AudioBatch(
        waveform=_padded([batch.waveform for batch in batches]),
        num_samples=_flat(batch.num_samples for batch in batches),
        ids=_flat(batch.ids for batch in batches),
        counted=all(batch.counted for batch in batches),
        transcripts=_all_or_none([batch.transcripts for batch in batches]),
        starts=_all_or_none([batch.starts for batch in batches]),
        utterance_samples=_all_or_none([batch.utterance_samples for batch in batches]),
        clean=_join_clean(batches),
        draws=join_draws(made) if len(made) == len(draws) else None,
        parts=tuple(MicroBatch(number=number, size=len(one)) for number, one in zip(numbers, batches, strict=True)),
    )


def split_micro_batches(batch: AudioBatch) -> list[AudioBatch]:
    """Returns the micro-batches of a batch, each as it is apart: with no more padding than it needs, without draws."""
    if batch.parts is None or len(batch.parts) == 1:
        return [batch]
    ranges = rows_of(part.size for part in batch.parts)
    sizes = [max(batch.num_samples[rows]) for rows in ranges]
    cleans = _split_clean(batch.clean, ranges, sizes)
    return [
        replace(_take(batch, rows, size), clean=clean, parts=(part,))
        for part, rows, size, clean in zip(batch.parts, ranges, sizes, cleans, strict=True)
    ]


def rows_of(sizes: Iterable[int]) -> list[slice]:
    """Returns the rows of each micro-batch of a batch, in which they follow one another.

    Args:
        sizes: Utterances of each.
    """
    return [slice(*pair) for pair in pairwise([0, *accumulate(sizes)])]


def _take(batch: AudioBatch, rows: slice, size: int) -> AudioBatch:
    """Returns some utterances of a batch, in `size` samples, without what is mixed or drawn."""
    return AudioBatch(
        waveform=batch.waveform[rows, :size],
        num_samples=batch.num_samples[rows],
        ids=batch.ids[rows],
        counted=batch.counted,
        transcripts=None if batch.transcripts is None else batch.transcripts[rows],
        starts=None if batch.starts is None else batch.starts[rows],
        utterance_samples=None if batch.utterance_samples is None else batch.utterance_samples[rows],
    )


def join_draws(draws: Sequence[Draws]) -> Draws:
    """Returns the draws for several micro-batches, in the rows of one batch of all.

    What is drawn among the utterances of a micro-batch stays numbered within it.
    """
    first = draws[0]
    masks = [one.mask for one in draws if one.mask is not None]
    made = [one.made_for for one in draws if one.made_for is not None]
    keys = [key for key, tensors in first.negatives.items() if _are_alike([one.negatives.get(key) for one in draws])]
    return Draws(
        address=replace(first.address, ids=_flat(one.address.ids for one in draws)),
        num_predictions=sum(one.num_predictions for one in draws),
        mask=join_masks(masks) if len(masks) == len(draws) else None,
        negatives={key: tuple(map(_padded, zip(*(one.negatives[key] for one in draws), strict=True))) for key in keys},
        made_for=(_flat(lengths for lengths, _ in made), made[0][1]) if len(made) == len(draws) else None,
    )


def _are_alike(tensors: Sequence[tuple[Tensor, ...] | None]) -> bool:
    """Returns whether a sampler has drawn the same kinds of numbers for all micro-batches."""
    kinds = [None if some is None else [one.shape[2:] for one in some] for some in tensors]
    return None not in kinds and all(kind == kinds[0] for kind in kinds)


def join_masks(masks: Sequence[Mask]) -> Mask:
    """Returns one mask with the rows of all `masks`, one after another."""
    channels = [mask.channels for mask in masks if mask.channels is not None]
    return Mask(
        frames=_padded([mask.frames for mask in masks]),
        targets=_padded([mask.targets for mask in masks]),
        num_targets=_flat(mask.num_targets for mask in masks),
        channels=torch.cat(channels) if len(channels) == len(masks) else None,
        channels_first=masks[0].channels_first,
    )


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the rows of all `tensors` `(B, T, ...)`, zero after the end of the shorter ones."""
    if len(tensors) == 1:
        return tensors[0]
    dtype = max((tensor.dtype for tensor in tensors), key=lambda dtype: dtype.itemsize)
    shape = sum(map(len, tensors)), max(tensor.shape[1] for tensor in tensors), *tensors[0].shape[2:]
    rows = tensors[0].new_zeros(shape, dtype=dtype)
    first = 0
    for tensor in tensors:
        rows[first : first + len(tensor), : tensor.shape[1]] = tensor
        first += len(tensor)
    return rows


def _flat(tuples: Iterable[tuple[Value, ...]]) -> tuple[Value, ...]:
    return tuple(value for some in tuples for value in some)


def _all_or_none(tuples: Sequence[tuple[Value, ...] | None]) -> tuple[Value, ...] | None:
    present = [some for some in tuples if some is not None]
    return _flat(present) if len(present) == len(tuples) else None


def _join_clean(batches: Sequence[AudioBatch]) -> CleanAudio | None:
    """Returns the mixed utterances of all micro-batches; those without any are empty parts."""
    mixed = [batch.clean for batch in batches if batch.clean is not None]
    if not mixed:
        return None
    ranges = rows_of(map(len, batches))
    rows = [
        batch.clean.rows + some.start for batch, some in zip(batches, ranges, strict=True) if batch.clean is not None
    ]
    joined = join_micro_batches([clean.batch for clean in mixed], range(len(mixed)))
    size = max(batch.waveform.shape[1] for batch in batches)
    waveform = torch.nn.functional.pad(joined.waveform, (0, size - joined.waveform.shape[1]))
    parts = tuple(
        MicroBatch(number=number, size=0 if batch.clean is None else len(batch.clean.batch))
        for number, batch in enumerate(batches)
    )
    return CleanAudio(batch=replace(joined, waveform=waveform, parts=parts), rows=torch.cat(rows))


def _split_clean(clean: CleanAudio | None, ranges: Sequence[slice], sizes: Sequence[int]) -> list[CleanAudio | None]:
    if clean is None:
        return [None] * len(sizes)
    batch = clean.batch
    assert batch.parts is not None, "what belongs to a fused batch is fused"
    own = rows_of(part.size for part in batch.parts)
    return [
        CleanAudio(batch=_take(batch, rows, size), rows=clean.rows[rows] - of_all.start) if part.size else None
        for part, rows, of_all, size in zip(batch.parts, own, ranges, sizes, strict=True)
    ]
