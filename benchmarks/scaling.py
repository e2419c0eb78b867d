"""The time of a training step as a function of the audio and of the number of distractors.

    python -m benchmarks.scaling [--tiny] [--json FILE]

The step of wav2vec 2.0 BASE with the convolutional context network of wav2vec instead of the Transformer, whose
attention is quadratic in the length, over the seconds of an utterance and over the number of utterances; and
the contrastive loss alone over K. All sizes are measured alternately; the last column is the time for
the same amount of work, relative to the smallest size: 1 is linear, below 1 is sublinear.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import memory, peers
from benchmarks.side_by_side import machine, write_json
from w2vlab.contexts import ConvContext
from w2vlab.encoders import ConvFeatureEncoder
from w2vlab.losses import ContrastiveLoss
from w2vlab.modules import MaskedPrediction
from w2vlab.types import LossInputs, QuantizerOutput, RandomAddress, TargetSpec

Step = Callable[[], None]


def training_step(batch_size: int, seconds: float, tiny: bool) -> Step:
    """Returns forward and backward pass and optimizer step of a batch."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {"context": ConvContext}
    if tiny:
        kernels = ((10, 5), *((3, 2),) * 4, *((2, 2),) * 2)
        parts = {
            "context": partial(ConvContext, layers=[(8, 2)]),
            "encoder": partial(ConvFeatureEncoder, layers=[(8, *kernel) for kernel in kernels]),
        }
    model = MaskedPrediction(**parts).train()
    optimizer = model.make_optimizer(model.parameters())
    batch = peers.audio(batch_size, seconds)

    def step() -> None:
        output = model(batch, RandomAddress(seed=1, update=0, ids=batch.ids))
        torch.stack(list(model.objective_terms(output).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def loss_step(num_negatives: int, tiny: bool) -> Step:
    """Returns forward and backward pass of the contrastive loss."""
    batch, masked, _, context_dim, _, dim, _, _ = memory.SIZES["tiny" if tiny else "published"]
    loss = ContrastiveLoss(
        context_dim,
        TargetSpec(dim=dim, num_codebooks=2, codebook_size=320),
        projection_dim=dim,
        num_negatives=num_negatives,
    )
    context = torch.randn(batch, masked, context_dim, requires_grad=True)
    targets = QuantizerOutput(
        quantized=torch.randn(batch, masked, dim), codes=torch.zeros(batch, masked, 2, dtype=torch.int64)
    )
    ids = tuple(map(str, range(batch)))
    inputs = LossInputs(
        context=context,
        targets=targets,
        num_targets=(masked,) * batch,
        address=RandomAddress(seed=1, update=0, ids=ids),
        first_ahead=0,
    )
    return lambda: loss(inputs).total.backward()


def curve(steps: dict[float, Step], rounds: int) -> dict[float, float]:
    """Returns the median time of each step by its size, measured alternately."""
    times: dict[float, list[float]] = {size: [] for size in steps}
    for number in range(rounds + 1):
        for size, step in steps.items():
            start = time.perf_counter()
            step()
            if number:
                times[size].append(time.perf_counter() - start)
    return {size: statistics.median(values) for size, values in times.items()}


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints tables and returns their values."""
    args = sys.argv[1:] if args is None else args
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that it runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(args)
    seconds = (1.0, 2.0, 4.0, 8.0)
    curves = {
        "seconds of one utterance": {size: training_step(1, size, options.tiny) for size in seconds},
        "utterances of 2 s": {size: training_step(size, 2.0, options.tiny) for size in (1, 2, 4, 8)},
        "negatives K of the loss": {size: loss_step(size, options.tiny) for size in (50, 100, 200, 400)},
    }
    figures: dict[str, Any] = {"command": " ".join(["python -m benchmarks.scaling", *args]), **machine()}
    for name, steps in curves.items():
        times = curve(steps, options.rounds)
        first = next(iter(times))
        print(f"| {name} | time (s) | time for the same work |\n|---|---|---|")
        for size, value in times.items():
            print(f"| {size:g} | {value:.3f} | {value / size / (times[first] / first):.2f} |")
        print()
        figures[name] = times
    write_json(options.json, figures)
    return figures


if __name__ == "__main__":
    main()
