"""The function that each of two processes runs; in a separate module, so that a spawned process can import it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.ddp.worker import ShareOfRank
from tests.modules.training import NoiselessGumbel, loader, make_model, make_trainer, parameters_of
from w2vlab.callbacks import GradientFlow
from w2vlab.modules import MaskedPrediction
from w2vlab.utils.distributed import rank

UPDATES = 2


def train(folder: Path, **options: Any) -> dict[str, Any]:
    """Trains with the diversity penalty, which has statistics of the global batch, and measures at every update."""
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
    trainer.fit(model, loader(ShareOfRank(accumulate=1)))
    assert flow.matrix is not None
    return {"matrix": flow.matrix.as_dict(), "parameters": parameters_of(model)}


def train_share(folder: Path) -> dict[str, Any]:
    """Runs on each of two processes."""
    return train(folder / f"rank-{rank()}", strategy="ddp", devices=2)
