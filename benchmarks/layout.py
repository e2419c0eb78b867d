"""The difference between five updates in several layouts and those of one process with the whole batch.

    python -m benchmarks.layout [--json FILE]

Both objectives with every quantizer whose update is a sum over utterances without noise, on the same eight
utterances of two lengths per update: in one process, with gradient accumulation, in two processes (gloo), and both. The
result is the largest difference of any parameter or moving average, relative to the largest value of its tensor. With
all noise on, the same micro-batches are distributed differently, because noise belongs to a micro-batch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.runs import relative_difference
from tests.contracts.tiny import build_model, factory
from tests.ddp.processes import in_two_processes
from tests.ddp.worker import ShareOfRank
from tests.modules.training import (
    MODELS,
    NoiselessGumbel,
    constant_rate,
    loader,
    make_batches,
    make_model,
    make_trainer,
    plain_sgd,
    with_updates,
)
from w2vlab.contexts import ConvContext, TransformerContext
from w2vlab.modules import MaskedPrediction, PretrainingModule
from w2vlab.quantizers import EMAQuantizer, GumbelQuantizer, IdentityQuantizer, KMeansQuantizer
from w2vlab.utils.distributed import is_distributed

UPDATES = 5
QUANTIZERS = (IdentityQuantizer, NoiselessGumbel, KMeansQuantizer, EMAQuantizer)
PRECISIONS = {"float64": "64-true", "float32": "32-true"}

SAME_MICRO_BATCHES = {"2 processes x 1 x 4": "1 process x 2 x 4", "2 processes x 2 x 2": "1 process x 4 x 2"}
"""For each layout of two processes, the one of one process with the same micro-batches."""

NOISY_CONTEXT = {
    "model_dim": 8,
    "num_layers": 3,
    "num_heads": 2,
    "feedforward_dim": 12,
    "position_kernel": 4,
    "position_groups": 2,
    "dropout": 0.1,
    "layer_drop": 0.2,
}

State = dict[str, Tensor]


def noisy_model(cls: type) -> PretrainingModule:
    """With all random operations of the published model."""
    torch.manual_seed(0)
    context = partial(TransformerContext, **NOISY_CONTEXT) if cls is MaskedPrediction else factory(ConvContext)
    quantizer = factory(GumbelQuantizer)
    common = {"optimizer": plain_sgd, "scheduler": constant_rate}
    return build_model(cls, context=context, quantizer=quantizer, feature_dropout=0.1, **common)


def train(model: PretrainingModule, batches: Any, accumulate: int, precision: str) -> State:
    """Five updates; parameters and buffers afterwards."""
    options: dict[str, Any] = {"strategy": "ddp", "devices": 2} if is_distributed() else {}
    trainer = make_trainer(UPDATES, accumulate, precision=precision, use_distributed_sampler=False, **options)
    trainer.fit(model, loader(batches, accumulate))
    return {name: value.clone() for name, value in model.state_dict().items()}


def cases() -> dict[str, tuple[Any, str, bool]]:
    """Name of a case: how its model is built, the precision, and whether noise is on."""
    found: dict[str, tuple[Any, str, bool]] = {}
    for precision in PRECISIONS:
        for cls in MODELS:
            for quantizer in QUANTIZERS:
                build = partial(make_model, cls, quantizer, diversity=quantizer is NoiselessGumbel)
                name = quantizer.__name__.replace("Noiseless", "") + ("Quantizer" if "Noise" in str(quantizer) else "")
                found[f"{precision} {cls.__name__} {name}"] = build, PRECISIONS[precision], False
            found[f"{precision} {cls.__name__} all noise on"] = partial(noisy_model, cls), PRECISIONS[precision], True
    return found


def in_one_process(folder: Path | None = None) -> dict[str, dict[str, State]]:
    """All cases in the layouts of one process, by micro-batches per update."""
    results: dict[str, dict[str, State]] = {}
    for name, (build, precision, _) in cases().items():
        for pieces in (1, 2, 4):
            batches = with_updates(make_batches(UPDATES, pieces, 8 // pieces, samples=(400, 310)), pieces)
            results.setdefault(name, {})[f"1 process x {pieces} x {8 // pieces}"] = train(
                build(), batches, pieces, precision
            )
    return results


def in_each_of_two(folder: Path) -> dict[str, dict[str, State]]:
    """All cases in the layouts of two processes."""
    results: dict[str, dict[str, State]] = {}
    for name, (build, precision, _) in cases().items():
        for accumulate in (1, 2):
            results.setdefault(name, {})[f"2 processes x {accumulate} x {4 // accumulate}"] = train(
                build(), ShareOfRank(accumulate), accumulate, precision
            )
    return results


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    alone = in_one_process()
    with tempfile.TemporaryDirectory() as folder:
        first, second = in_two_processes(in_each_of_two, Path(folder))
    table = {}
    for name, (_, _, noise) in cases().items():
        one, two = alone[name], first[name]
        if noise:  # the same micro-batches, on other processes
            cut = {}
            shared = {layout: (state, one[SAME_MICRO_BATCHES[layout]]) for layout, state in two.items()}
        else:
            whole = one["1 process x 1 x 8"]
            cut = {layout: (state, whole) for layout, state in one.items() if state is not whole}
            shared = {layout: (state, whole) for layout, state in two.items()}
        table[name] = {
            "accumulated": max((relative_difference(*pair) for pair in cut.values()), default=None),
            "two processes": max(relative_difference(*pair) for pair in shared.values()),
            "between ranks": max(relative_difference(second[name][layout], state) for layout, state in two.items()),
        }
    columns = list(next(iter(table.values())))
    print(f"| largest relative difference after {UPDATES} updates | {' | '.join(columns)} |")
    print("|---" * (1 + len(columns)) + "|")
    for name, figures in table.items():
        cells = ("-" if figure is None else f"{figure:.1e}" for figure in figures.values())
        print(f"| {name} | {' | '.join(cells)} |")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
