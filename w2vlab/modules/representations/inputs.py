"""Checks of the arguments of `features` and `codes`, which come from users."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from w2vlab.interfaces import FeatureEncoder, UtteranceEncoder
from w2vlab.types import SAMPLE_RATE, Hertz

Lengths = int | Sequence[int] | Tensor
"""Samples of each utterance; a number for a single one."""


def check_hears(name: str, encoder: FeatureEncoder) -> None:
    """Checks that the inputs of a model are audio.

    Args:
        name: Of the model, for errors.
        encoder: Its encoder.

    Raises:
        ValueError: They are codes of a file, and audio alone does not say which utterance it is.
    """
    if isinstance(encoder, UtteranceEncoder):
        raise ValueError(
            f"A model must have an encoder of audio for features, but the inputs of this {name} are codes of a file "
            f"({type(encoder).__name__}). Evaluate it on a corpus whose codes are in the file (`w2vlab evaluate`), or "
            "give batches with ids to `encode`."
        )


def check_waveform(waveform: Any, sample_rate: Hertz) -> Tensor:
    """Returns a waveform as a batch `(B, S)`.

    Args:
        waveform: Shape `(S,)` or `(B, S)`.
        sample_rate: Its sampling rate in Hz.

    Raises:
        TypeError: It is not a tensor.
        ValueError: It has another shape, integers, or another sampling rate than 16 kHz.
    """
    if not isinstance(waveform, Tensor):
        raise TypeError(
            "`waveform` must be a tensor of floats, shape (S,) or (B, S), but is of type "
            f"{type(waveform).__name__}. Use torch.as_tensor for an array; pad utterances of different lengths with "
            "torch.nn.utils.rnn.pad_sequence(…, batch_first=True), and pass their lengths as `num_samples`."
        )
    if not waveform.is_floating_point():
        raise ValueError(
            f"`waveform` must be floats in [-1, 1], but is {_name(waveform.dtype)}. Divide 16-bit audio by 32768."
        )
    if waveform.ndim not in (1, 2) or waveform.numel() == 0:
        raise ValueError(
            f"`waveform` must have shape (S,) or (B, S), but has shape {tuple(waveform.shape)}. Take one channel, or "
            "the mean of the channels."
        )
    if sample_rate != SAMPLE_RATE:
        raise ValueError(
            f"`sample_rate` must be {SAMPLE_RATE}, but is {sample_rate}. Resample first: "
            f"torchaudio.functional.resample(waveform, {sample_rate}, {SAMPLE_RATE})."
        )
    return waveform if waveform.ndim == 2 else waveform[None]


def check_lengths(waveform: Tensor, num_samples: Lengths | None, receptive_field: int) -> tuple[int, ...]:
    """Returns the samples of each utterance of a batch `(B, S)`.

    Args:
        waveform: Shape `(B, S)`.
        num_samples: Samples of each utterance; None if all have S.
        receptive_field: Samples that a frame needs.

    Raises:
        ValueError: A length is not in the range from `receptive_field` to S, or a sample is not finite.
    """
    batch, size = waveform.shape
    if num_samples is None:
        lengths = (size,) * batch
        if size < receptive_field:
            raise ValueError(
                f"`waveform` must have at least {receptive_field} samples (the receptive field), but has {size}."
            )
    else:
        lengths = _as_integers(num_samples)
        if len(lengths) != batch:
            raise ValueError(
                f"`num_samples` must have one length for each of {batch} utterances, but has {len(lengths)}."
            )
        for row, length in enumerate(lengths):
            if not receptive_field <= length <= size:
                raise ValueError(
                    f"`num_samples` must be from {receptive_field} (the receptive field) to {size} (the size of "
                    f"`waveform`), but is {length} for utterance {row}."
                )
    for row, length in enumerate(lengths):
        lowest, highest = waveform[row, :length].aminmax()  # both are NaN if a sample is; without a copy of the audio
        if not (lowest.isfinite() and highest.isfinite()):
            raise ValueError(f"`waveform` must be finite, but utterance {row} has NaN or infinity.")
    return lengths


def check_layers(layers: Any, num_layers: int, name: str) -> tuple[int, ...]:
    """Returns the numbers of layers that are asked for, in ascending order.

    Args:
        layers: `all`, or numbers.
        num_layers: Layers of the context network.
        name: Of the context network, for errors.

    Raises:
        ValueError: They are neither, or the network does not have them.
    """
    if not num_layers:
        raise ValueError(f"`layers` must be None for {name}, which is not a sequence of layers, but is {layers!r}.")
    known = range(num_layers + 1)
    if isinstance(layers, str):
        numbers: list[Any] = list(known) if layers == "all" else [layers]
    else:
        numbers = list(layers) if isinstance(layers, Iterable) else [layers]
    valid = (
        not isinstance(layers, int) and numbers and all(type(number) is int and number in known for number in numbers)
    )
    if not valid:
        raise ValueError(
            f'`layers` must be "all" or numbers from 0 to {num_layers}, such as [0, {num_layers}], but is {layers!r}.'
        )
    return tuple(sorted(set(numbers)))


def _as_integers(num_samples: Any) -> tuple[int, ...]:
    rule = "`num_samples` must be integers, one for each utterance"
    if isinstance(num_samples, Tensor):
        if num_samples.is_floating_point() or num_samples.ndim > 1:
            raise ValueError(f"{rule}, but is of type {_name(num_samples.dtype)} and shape {tuple(num_samples.shape)}.")
        return tuple(num_samples.reshape(-1).tolist())
    lengths = tuple(num_samples) if isinstance(num_samples, Iterable) else (num_samples,)
    try:
        if any(isinstance(length, bool) for length in lengths):
            raise TypeError
        return tuple(length.__index__() for length in lengths)
    except (AttributeError, TypeError):
        raise ValueError(f"{rule}, but is {num_samples!r}.") from None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
