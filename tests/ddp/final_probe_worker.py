"""A run of two processes that is measured at its end; in a separate module, so that a spawned process can import it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.ddp.worker import ShareOfRank
from tests.modules.training import NoiselessGumbel, loader, make_model, make_trainer
from w2vlab.callbacks import FinalProbe, RunReport
from w2vlab.modules import MaskedPrediction
from w2vlab.utils.distributed import rank

UPDATES = 3


def measured(folder: Path) -> dict[str, Any]:
    """Trains with and without the probe; returns its results, the weights of both, and the files at its end."""
    probe = FinalProbe(corpus=str(folder / "wav"), cache_dir=folder / "cache")
    trained = []
    for callbacks in ([probe, RunReport()], []):
        model = make_model(MaskedPrediction, NoiselessGumbel)
        options = {"strategy": "ddp", "devices": 2, "use_distributed_sampler": False, "default_root_dir": folder}
        trainer = make_trainer(UPDATES, 1, callbacks, **options)
        trainer.fit(model, loader(ShareOfRank(1)))
        trained.append({name: value.clone() for name, value in model.state_dict().items()})
    return {
        "accuracy": None if probe.gain is None else probe.gain.trained.probe.accuracy,
        "weights": trained,
        "rank": rank(),
    }
