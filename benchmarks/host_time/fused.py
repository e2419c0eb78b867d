"""Time of an update of many tiny micro-batches, computed one after another and fused, in turns.

    python -m benchmarks.host_time.fused [--micro-batches N] [--layers N] [--rounds N] [--json FILE]

The model is wav2vec 2.0 with all its noise and so narrow that starting its operations takes most of the time, as on a
GPU. Micro-batches are utterances of two thirds of a second to one second, so that fused ones are padded. The time is
that of the main thread, the smallest of the updates of a turn.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from benchmarks.side_by_side import machine, write_json
from tests.modules.training import loader, make_trainer
from w2vlab.contexts import TransformerContext
from w2vlab.data.fusing import fuse
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.losses import ContrastiveLoss
from w2vlab.modules import MaskedPrediction
from w2vlab.quantizers import GumbelQuantizer
from w2vlab.types import SAMPLE_RATE, AudioBatch

WIDTH = 32
UPDATES = 5
LENGTHS = tuple(SAMPLE_RATE * percent // 100 for percent in (67, 78, 89, 100))


def build(layers: int) -> MaskedPrediction:
    """A narrow wav2vec 2.0 with all its dropouts."""
    torch.manual_seed(0)
    context = partial(
        TransformerContext,
        model_dim=WIDTH,
        num_layers=layers,
        num_heads=4,
        feedforward_dim=2 * WIDTH,
        position_kernel=16,
        position_groups=4,
        layer_drop=0.0,
    )
    convolutions = [(WIDTH, 10, 5), *[(WIDTH, 3, 2)] * 4, *[(WIDTH, 2, 2)] * 2]
    return MaskedPrediction(
        encoder=partial(ConvFeatureEncoder, layers=convolutions),
        context=context,
        quantizer=partial(GumbelQuantizer, codebook_size=16, output_dim=WIDTH),
        loss=partial(ContrastiveLoss, projection_dim=WIDTH, num_negatives=20),
    )


def batches(micro_batches: int, at_once: int) -> list[AudioBatch]:
    """All micro-batches of the updates, each of two utterances, or groups of them."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for update in range(UPDATES):
        for number in range(micro_batches):
            samples = LENGTHS[number % len(LENGTHS)]
            waveform = 0.1 * torch.randn(2, samples, generator=generator)
            ids = tuple(f"{update}-{number}-{row}" for row in range(2))
            found.append(AudioBatch(waveform=waveform, num_samples=(samples, samples), ids=ids))
    if at_once == 1:
        return found
    firsts = range(0, len(found), at_once)
    numbers = [range(first % micro_batches, first % micro_batches + at_once) for first in firsts]
    return [fuse(found[first : first + at_once], some, 1e9, None) for first, some in zip(firsts, numbers, strict=True)]


class _Clock(pl.Callback):
    """Reads the time of the main thread at the end of each update."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_before_zero_grad(self, *_: Any) -> None:
        self.times.append(time.thread_time())


def turn(micro_batches: int, at_once: int, layers: int) -> float:
    """Returns the smallest time of an update, in seconds."""
    clock, steps = _Clock(), micro_batches // at_once
    trainer = make_trainer(UPDATES, steps, [clock])
    trainer.fit(build(layers), loader(batches(micro_batches, at_once), steps))
    return min(after - before for before, after in zip(clock.times[1:], clock.times[2:], strict=False))


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Prints the times, and returns the median of the turns in milliseconds, by micro-batches at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micro-batches", type=int, default=16)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if options.micro_batches % size == 0]
    times: dict[int, list[float]] = {size: [] for size in sizes}
    messages = logging.getLogger("lightning.pytorch")
    level = messages.level
    messages.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(options.rounds):
                for size in sizes:
                    times[size].append(1000 * turn(options.micro_batches, size, options.layers))
    finally:
        messages.setLevel(level)
    medians = {str(size): statistics.median(found) for size, found in times.items()}
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"an update of {options.micro_batches} micro-batches of a model of {options.layers} layers:")
    for size, found in times.items():
        spread = ", ".join(f"{one:.0f}" for one in found)
        print(
            f"{size:3} at once: {medians[str(size)]:6.0f} ms ({spread}), {medians['1'] / medians[str(size)]:.2f} times"
        )
    write_json(options.json, {**machine(), "milliseconds": times})
    return medians


if __name__ == "__main__":
    main()
