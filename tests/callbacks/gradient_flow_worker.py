"""What each of two processes runs; a module of its own, so that a spawned process can import it."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.ddp.worker import UPDATES, ShareOfRank
from tests.modules.training import NoiselessGumbel, loader, make_model, make_trainer, parameters_of
from w2vlab.callbacks import GradientFlow
from w2vlab.modules import MaskedPrediction


def train(folder: Path, **options: Any) -> dict[str, Any]:
    """Trains with the diversity penalty, whose backward pass sums over the processes, and looks at every update."""
    model = make_model(MaskedPrediction, NoiselessGumbel, diversity=True)
    flow = GradientFlow(every=1)
    trainer = make_trainer(
        UPDATES,
        callbacks=[flow],
        default_root_dir=folder,
        precision="64-true",
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(model, loader(ShareOfRank()))
    assert flow.matrix is not None
    return {"matrix": flow.matrix.as_dict(), "parameters": parameters_of(model)}


def run(process: int, port: int, folder: str) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "NODE_RANK": "0",
        "LOCAL_RANK": str(process),
    }
    torch.set_num_threads(1)
    # A process that waits for one that is not coming fails in the end, and the test with it.
    dist.init_process_group("gloo", rank=process, world_size=2, timeout=timedelta(minutes=3))
    result = train(Path(folder, f"rank-{process}"), strategy="ddp", devices=2)
    torch.save(result, Path(folder) / f"{process}.pt")
    dist.destroy_process_group()
