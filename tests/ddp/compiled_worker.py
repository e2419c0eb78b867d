"""Worker of each of two processes with and without CompileModel, in a separate module to import in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.contracts.tiny import build_model, factory
from tests.ddp.sharded_worker import Save
from tests.helpers.compiling import own_kernels
from tests.modules.training import Record, constant_rate, loader, make_batches, make_trainer, plain_sgd
from w2vlab.callbacks import CompileModel
from w2vlab.contexts import TransformerContext
from w2vlab.modules import MaskedPrediction
from w2vlab.quantizers import GumbelQuantizer
from w2vlab.strategies import ShardedStrategy
from w2vlab.utils.distributed import rank, world_size

UPDATES = 3
STRATEGIES: dict[str, Any] = {"ddp": lambda: "ddp", "sharded": ShardedStrategy}


def train(strategy: Any, callbacks: list[Any], path: Path) -> dict[str, Any]:
    """Three updates of two micro-batches of one process each, with LayerDrop and noise.

    Without dropout inside of regions, which a CPU draws otherwise where it is not compiled.
    """
    torch.manual_seed(0)
    model = build_model(
        MaskedPrediction,
        quantizer=factory(GumbelQuantizer),
        context=factory(TransformerContext, layer_drop=0.3, dropout=0.0, attention_dropout=0.0),
        optimizer=plain_sgd,
        scheduler=constant_rate,
    )
    record = Record()
    trainer = make_trainer(
        UPDATES, 1, [record, Save(path), *callbacks], strategy=strategy, devices=2, use_distributed_sampler=False
    )
    trainer.fit(model, loader(make_batches(UPDATES, 2, 2, samples=(400, 310))[rank() :: world_size()]))
    return {"losses": record.losses}


def run(folder: Path) -> dict[str, Any]:
    """What one of two processes does; checkpoints go to `folder`."""
    results = {}
    for name, strategy in STRATEGIES.items():
        compiled = CompileModel()
        for how, callbacks in (("compiled", [compiled]), ("plain", [])):
            with own_kernels():
                results[f"{name}-{how}"] = train(strategy(), callbacks, folder / f"{name}-{how}.ckpt")
        results[f"{name}-compiled"]["graphs"] = compiled.compiler.num_graphs
    return results
